"""Every codec: what it promises of values, chunks and symbols."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.contract import PolicyContract
from vla.datasets.statistics import space_with_statistics
from vla.errors import ContractMismatch, UserError
from vla.tokenization.base import Malformed
from vla.tokenization.codecs import SETTINGS, action_codec, fitted, with_statistic

EVERY = pytest.mark.parametrize("name", SETTINGS)


def draw(codec, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A chunk of values from below the lower to above the upper limit, with both, zero and the data's own among them."""
    rng, space = np.random.default_rng(seed), codec.space
    low, high = np.array(space.low), np.array(space.high)
    values = rng.uniform(low - 0.2 * (high - low), high + 0.2 * (high - low), (codec.chunk, space.size))
    special = np.stack([low, high, np.zeros(space.size)])[rng.integers(0, 3, codec.chunk)]
    values = np.where(rng.random(values.shape) < 0.3, special, values)
    # Smooth chunks as a robot's are, as well.
    values = values if seed % 2 else np.linspace(values[0], values[-1], codec.chunk)
    return space.settled(values), rng.random(codec.chunk) < 0.3


@EVERY
@pytest.mark.parametrize(("chunk", "terminate"), [(1, True), (5, True), (5, False)])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_a_chunk_comes_back_and_every_symbol_was_legal(contract, name, chunk, terminate, seed):
    codec = action_codec(contract(name, chunk, terminate))
    actions, flags = draw(codec, seed)
    symbols, steps = codec.encode(actions, flags)
    assert steps.shape == symbols.shape and steps.min() >= 0 and steps.max() < chunk and len(symbols) <= codec.longest
    positions = codec.positions()
    for i, symbol in enumerate(symbols):
        legal, end = codec.next(symbols[:i])
        assert symbol in legal and not (end and codec.fixed) and set(legal) <= set(positions[i])
    assert codec.next(symbols)[1] and (not codec.fixed or len(symbols) == codec.longest)
    back, decoded_flags = codec.decode(symbols)
    assert np.array_equal(decoded_flags, flags if terminate else np.zeros(chunk, bool))
    assert (back[:, 1] == 0.1).all() and np.isfinite(back).all()
    again, _ = codec.encode(back, decoded_flags)
    if name != "fast":  # there the clipped values need not be a chunk's own
        assert np.array_equal(codec.decode(again)[0], back)


@EVERY
@given(seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_whatever_is_written_legally_is_a_chunk(contract, name, seed):
    codec = action_codec(contract(name))
    rng, written = np.random.default_rng(seed), np.array([], np.int64)
    while True:
        legal, end = codec.next(written)
        if not len(legal) or (end and rng.random() < 0.5):
            assert end
            break
        written = np.append(written, rng.choice(legal))
        assert len(written) <= codec.longest
    actions, flags = codec.decode(written)
    assert actions.shape == (codec.chunk, 3) and flags.shape == (codec.chunk,)
    assert (actions >= codec.space.low).all() and (actions <= codec.space.high).all()


@EVERY
def test_what_is_cut_off_or_too_long_is_malformed(contract, name):
    codec = action_codec(contract(name))
    symbols, _ = codec.encode(*draw(codec, 1))
    for wrong in (symbols[:0], symbols[:3], symbols[:-1], np.append(symbols, symbols[-1]), np.tile(symbols, 2)):
        # A number that lost its last digit may still be one.
        if name != "numbers" or len(wrong) != len(symbols) - 1 and len(wrong) != len(symbols) + 1:
            with pytest.raises(Malformed):
                codec.decode(wrong)


@EVERY
@pytest.mark.parametrize("wrong", ["nan", "inf", "steps", "dimensions", "flags"])
def test_what_cannot_be_encoded_is_named(contract, name, wrong):
    codec = action_codec(contract(name))
    actions, flags = draw(codec, 1)
    if wrong in ("nan", "inf"):
        actions[2, 0] = float(wrong)
    actions = {"steps": actions[:-1], "dimensions": actions[:, :-1]}.get(wrong, actions)
    with pytest.raises(ContractMismatch, match="NaN or infinity in x" if wrong in ("nan", "inf") else r"chunk"):
        codec.encode(actions, flags[:-1] if wrong == "flags" else flags)


@EVERY
def test_a_codec_is_in_the_contract_whole(contract, name):
    mine = contract(name)
    other = PolicyContract.from_dict(mine.to_dict())
    assert other.hash == mine.hash and fitted(mine, lambda _: pytest.fail("fitted twice")) == mine
    codec = action_codec(mine)
    actions, flags = draw(codec, 3)
    assert np.array_equal(codec.encode(actions, flags)[0], action_codec(other).encode(actions, flags)[0])


@EVERY
@pytest.mark.parametrize(
    ("pair", "share"), [((-1.0, 1.0), 0.5), ((0.0, 1.0), 0.004), ((0.1, 0.101), 0.5), ((-1.0, -0.999), 0.004)]
)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=8, deadline=None)
def test_a_binary_dimension_is_one_of_its_two_values_and_comes_back(contract, chunks, name, pair, share, seed):
    """Wherever the two values are between the limits, however near each other, however rare one of them."""
    data = chunks[:300].copy()
    data[:, :, 2] = np.where(np.random.default_rng(0).random(data.shape[:2]) < share, pair[1], pair[0])
    data[0, :, 2] = pair[1]
    mine = contract(name)
    embodiment = mine.embodiment()
    space = space_with_statistics(embodiment.action, data[:, 0]).with_binary()
    assert space.binary == (None, None, pair)
    args = {"vocab_size": 300, "range": "quantiles"} if name == "fast" else {}
    robot = {"arm": dataclasses.replace(embodiment, action=space)}
    unfitted = dataclasses.replace(mine, embodiments=robot, codec_args=args)
    codec = action_codec(fitted(unfitted, lambda _: data))
    rng = np.random.default_rng(seed)
    actions, flags = draw(codec, seed)
    actions[:, 2] = rng.choice(pair, codec.chunk)
    symbols, _ = codec.encode(actions, flags)
    assert np.array_equal(codec.decode(symbols)[0][:, 2], actions[:, 2])
    written = np.array([], np.int64)
    while len(legal := codec.next(written)[0]):
        written = np.append(written, rng.choice(legal))
    assert np.isin(codec.decode(written)[0][:, 2], pair).all()
    if name not in ("fast", "numbers"):
        assert [len(one) for one in codec.positions()][codec.terminate + 2 :: codec.width] == [2] * codec.chunk
        # Of a decoder that does not keep to the legal symbols.
        least = min(codec.bins.counts())
        assert np.isin(codec.bins.decode(rng.integers(0, least, (50, 3)))[:, 2], pair).all()
    # A value that is neither of them is written as the nearer one.
    actions[:, 2] = 0.9 * pair[0] + 0.1 * pair[1]
    assert (codec.decode(codec.encode(actions, flags)[0])[0][:, 2] == pair[0]).all()


def test_fitting_gives_the_same_every_time(contract, chunks):
    for name in ("quantile", "fast"):
        unfitted = dataclasses.replace(contract(name), codec_args={"vocab_size": 256} if name == "fast" else {})
        assert fitted(unfitted, lambda _: chunks).hash == contract(name).hash


@pytest.mark.parametrize(
    ("codec", "args", "match"),
    [
        ("fest", {}, "unknown codec 'fest'"),
        ("uniform", {"scale": 3}, "codec uniform has no scale"),
        ("quantile", {}, "lacks edges"),
        ("fast", {}, "lacks bpe"),
        ("openvla", {"raw": ["hand"]}, None),
        ("numbers", {"highest": 10**6}, "at most 65536"),
        ("numbers", {"lowest": 5, "highest": 5}, "at least 2"),
        ("quantile", {"edges": {"arm": [[-0.05, 0.05], [-0.3, 0.3], [1.0, -1.0]]}}, "not rising"),
        ("fast", {"bpe": {"model": 3}, "offset": 0}, "not a tokenizer"),
    ],
)
def test_settings_that_cannot_be_are_named(contract, codec, args, match):
    chosen = dataclasses.replace(contract("uniform"), codec=codec, codec_args=args)
    if match is None:
        action_codec(chosen)
        return
    with pytest.raises(UserError, match=match):
        action_codec(chosen)


def test_a_folder_s_encoding_replaces_fitting(contract, tmp_path):
    from vla.tokenization.fast import Fast

    Fast.from_dict(contract("fast").codec_args).save(tmp_path)
    chosen = dataclasses.replace(contract("fast"), codec_args={"folder": str(tmp_path)})
    found = fitted(chosen, lambda _: pytest.fail("nothing is to be fitted"))
    assert found.codec_args == contract("fast").codec_args and str(tmp_path) not in found.to_json()


def test_ordinal_places_are_quantities_alone(contract):
    """Not flags, constants, a gripper that is open or closed in the data, digits or FAST's pieces."""
    for name in ("uniform", "quantile", "openvla", "language-table"):
        codec = action_codec(contract(name))
        step = [False] * codec.terminate + codec.varies.tolist()
        assert codec.ordinal() == step * codec.chunk and len(codec.ordinal()) == len(codec.positions()), name
    for name in ("numbers", "fast"):
        codec = action_codec(contract(name))
        assert codec.ordinal() == [False] * codec.longest == [False] * len(codec.positions())
    mine = contract("uniform")
    ((robot, embodiment),) = mine.embodiments.items()
    values = np.random.default_rng(0).uniform(embodiment.action.low, embodiment.action.high, (400, embodiment.action.size))
    values[:, -1] = np.where(values[:, -1] > 0.3, embodiment.action.high[-1], embodiment.action.low[-1])
    space = space_with_statistics(embodiment.action, values)
    binary = dataclasses.replace(mine, embodiments={robot: dataclasses.replace(embodiment, action=space)})
    codec = action_codec(binary)
    assert codec.ordinal() == ([False] * codec.terminate + [True] * (space.size - 1) + [False]) * codec.chunk


def test_the_statistic_is_the_median_where_anything_is_ordinal(contract):
    for name in ("uniform", "numbers"):
        for plan in ((), ("where",), ("words",)):
            mine = dataclasses.replace(contract(name), plan=plan, modes=())
            ordinal = name == "uniform" or plan == ("where",)
            assert with_statistic(mine, "").decode == ("median" if ordinal else "mode")
            assert with_statistic(mine, "mode").decode == "mode"
            if ordinal:
                assert with_statistic(mine, "local-mean").decode == "local-mean"
            else:
                with pytest.raises(UserError, match="no action token is ordinal: codec numbers"):
                    with_statistic(mine, "median")
