"""Bins: values decode to within half a bin, over the whole range and at both ends."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.errors import ContractMismatch, UserError
from vla.space import Space
from vla.tokenization.bins import Levels, OpenVLABins, QuantileBins, UniformBins

SPACE = Space(("x", "still", "grip"), ("m", "rad", ""), (-0.05, -0.3, -1.0), (0.05, 0.3, 1.0), (None, 0.0, None))
LIMIT = st.floats(-1e3, 1e3, allow_nan=False).map(lambda x: round(x, 6))


def one(low: float, high: float, **more) -> Space:
    return Space(("x",), ("m",), (low,), (high,), **more)


@given(low=LIMIT, span=st.floats(1e-3, 1e3), share=st.floats(-0.5, 1.5), bins=st.integers(2, 1000))
@settings(deadline=None)
def test_even_bins_and_levels_decode_within_half_of_one(low, span, share, bins):
    space = one(low, low + span)
    for kind, width in ((UniformBins, span / bins), (Levels, span / (bins - 1))):
        codec = kind(space, bins)
        for x in (low + share * span, low, low + span):
            back = codec.decode(codec.encode(np.array([x])))[0]
            assert abs(back - np.clip(x, low, low + span)) <= width / 2 * (1 + 1e-6) + 1e-9


@given(
    data=st.lists(st.floats(-1, 1), min_size=1, max_size=60),
    repeats=st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), max_size=60),
    x=st.floats(-1.5, 1.5),
    bins=st.integers(2, 256),
)
@settings(deadline=None)
def test_quantile_bins_decode_within_half_of_the_own_bin(data, repeats, x, bins):
    space = one(-1.0, 1.0)
    edges = QuantileBins.fit(space, np.array([*data, *repeats])[:, None], bins)
    codec = QuantileBins(space, edges)
    assert len(edges[0]) - 1 <= bins
    for value in (x, -1.0, 1.0, *data[:5], *repeats[:5]):
        inside = np.clip(value, -1, 1)
        k = codec.encode(np.array([value]))[0]
        low, high = edges[0][k], edges[0][k + 1]
        assert low <= inside <= high and abs(codec.decode(np.array([k]))[0] - inside) <= (high - low) / 2 + 1e-12


def test_values_that_are_frequent_decode_exactly():
    rng = np.random.default_rng(0)
    data = np.stack(
        [np.where(rng.random(1000) < 0.3, 0.0, rng.normal(0, 0.01, 1000)), np.zeros(1000), rng.choice([-1.0, 1.0], 1000)], 1
    )
    codec = QuantileBins(SPACE, QuantileBins.fit(SPACE, data))
    assert (codec.decode(codec.encode(np.array([0.0, 0, 1.0]))) == [0, 0, 1]).all()
    assert codec.decode(codec.encode(np.array([0.01, 0, -1.0])))[2] == -1 and codec.counts()[2] == 3
    error = [abs(c.decode(c.encode(data)) - data).mean(0)[0] for c in (codec, UniformBins(SPACE))]
    assert error[0] < error[1] / 2


@given(q01=st.floats(-5, 4), span=st.floats(1e-3, 10), share=st.floats(-0.5, 1.5))
@settings(deadline=None)
def test_openvla_s_bins_decode_within_half_of_one(q01, span, share):
    codec = OpenVLABins(one(-10, 20, statistics={"q01": (q01,), "q99": (q01 + span,)}))
    for x in (q01 + share * span, q01, q01 + span):
        back = codec.decode(codec.encode(np.array([x])))[0]
        # Its scaling divides by 1e-8 more than it multiplies by.
        assert abs(back - np.clip(x, q01, q01 + span)) <= span / 255 / 2 * (1 + 1e-9) + 2e-8


@given(st.lists(st.integers(0, 255), min_size=3, max_size=3))
def test_every_bin_is_its_own_round_trip(bins):
    codec = UniformBins(SPACE)
    back = codec.encode(codec.decode(np.array(bins)))
    assert [back[0], back[2]] == [bins[0], bins[2]]


def test_levels_say_the_middle_exactly():
    codec = Levels(SPACE, 21)
    assert codec.decode(codec.encode(np.zeros(3))).tolist() == [0, 0, 0]
    assert codec.encode(np.array([0.05, 0, -1])).tolist() == [20, 10, 0]


def test_constant_dimension_is_exact_whatever_the_bin():
    codec = UniformBins(SPACE)
    assert (codec.decode(np.array([[0, 0, 0], [9, 255, 9]]))[:, 1] == 0.0).all()
    assert codec.encode(np.array([0.0, 0.2, 0.0]))[1] == codec.legal()[1][0]
    assert [len(legal) for legal in codec.legal()] == [256, 1, 256]


@pytest.mark.parametrize("bins", [[0, 256, 0], [-1, 0, 0], [0.0, 0.0, 0.0], [0, 0]])
def test_bad_bins_are_refused(bins):
    with pytest.raises(UserError):
        UniformBins(SPACE).decode(np.array(bins))


@pytest.mark.parametrize("value", [[np.nan, 0, 0], [np.inf, 0, 0], [0, 0]])
def test_bad_values_are_refused(value):
    with pytest.raises(ContractMismatch):
        UniformBins(SPACE).encode(np.array(value))


def test_openvla_s_bins_need_statistics():
    with pytest.raises(UserError, match="no statistics q01 and q99"):
        OpenVLABins(SPACE)
