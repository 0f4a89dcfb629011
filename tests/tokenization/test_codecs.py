import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.contract import Camera, Embodiment, PolicyContract, Space
from vla.errors import ContractMismatch, UserError
from vla.tokenization.codecs import UniformCodec, action_codec

SPACE = Space(("x", "still", "grip"), ("m", "rad", ""), (-0.05, -0.3, -1.0), (0.05, 0.3, 1.0), (None, 0.0, None))
LIMIT = st.floats(-1e3, 1e3, allow_nan=False).map(lambda x: round(x, 6))


@given(low=LIMIT, span=st.floats(1e-3, 1e3), share=st.floats(-0.5, 1.5), bins=st.integers(2, 1000))
def test_decodes_within_half_a_bin_after_clipping(low, span, share, bins):
    codec = UniformCodec(Space(("x",), ("m",), (low,), (low + span,)), bins)
    for x in (low + share * span, low, low + span):
        back = codec.decode(codec.encode(np.array([x])))[0]
        assert abs(back - np.clip(x, low, low + span)) <= span / bins / 2 * (1 + 1e-6) + 1e-9


@given(st.lists(st.integers(0, 255), min_size=3, max_size=3))
def test_every_bin_is_its_own_round_trip(bins):
    codec = UniformCodec(SPACE)
    back = codec.encode(codec.decode(np.array(bins)))
    assert [back[0], back[2]] == [bins[0], bins[2]]


def test_constant_dimension_is_exact_whatever_the_bin():
    codec = UniformCodec(SPACE)
    assert (codec.decode(np.array([[0, 0, 0], [9, 255, 9]]))[:, 1] == 0.0).all()
    assert codec.encode(np.array([0.0, 0.2, 0.0]))[1] == codec.allowed()[2][0]


def test_allowed_tokens_of_a_step():
    terminate, x, still, grip = UniformCodec(SPACE).allowed()
    assert terminate.tolist() == [0, 1] and len(still) == 1
    assert x.tolist() == grip.tolist() == list(range(256))
    assert len(UniformCodec(SPACE).allowed(terminate=False)) == 3


@pytest.mark.parametrize("bins", [[0, 256, 0], [-1, 0, 0], [0.0, 0.0, 0.0], [0, 0]])
def test_bad_bins_are_refused(bins):
    with pytest.raises(UserError):
        UniformCodec(SPACE).decode(np.array(bins))


@pytest.mark.parametrize("value", [[np.nan, 0, 0], [np.inf, 0, 0], [0, 0]])
def test_bad_values_are_refused(value):
    with pytest.raises(ContractMismatch):
        UniformCodec(SPACE).encode(np.array(value))


def test_unknown_codec_is_named():
    robot = Embodiment((Camera("front", 64, 64),), SPACE, SPACE)
    with pytest.raises(UserError, match="unknown codec 'fest'"):
        action_codec(PolicyContract({"arm": robot}, codec="fest"), robot)
