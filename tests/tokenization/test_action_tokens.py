"""Every codec, with every kind of action tokens and every family of tokenizers: values to token ids and back, never as text."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from vla.errors import UserError
from vla.space import Space
from vla.tokenization.action_tokens import action_token_ids, appended_tokens
from vla.tokenization.bins import OpenVLABins, QuantileBins, UniformBins
from vla.tokenization.codecs import SETTINGS, action_codec
from vla.tokenization.steps import NumberCodec, StepCodec
from vla.tokenization.vocabulary import Vocabulary

FAMILIES = ("byte-level", "sentencepiece", "wordpiece")


@pytest.fixture(scope="session")
def vocabulary(families):
    """(codec, tokens, family) -> the vocabulary and its tokenizer."""

    def make(codec, tokens, family):
        tokenizer = families[family]
        if tokens == "append":
            tokenizer = copy.deepcopy(tokenizer)
            tokenizer.add_tokens(appended_tokens(codec.size))
        return Vocabulary.from_tokenizer(tokenizer, tokens, codec.spelling), tokenizer

    return make


def half_bin(codec, actions: np.ndarray) -> np.ndarray:
    """Half the width of the bin of each value, by the definitions of the codecs."""
    low, high = np.array(codec.space.low), np.array(codec.space.high)
    if isinstance(codec, NumberCodec):
        return (high - low) / 1000 / 2
    bins = codec.bins
    if isinstance(bins, OpenVLABins):
        return (bins.high - bins.low) / 255 / 2 + 2e-8
    if isinstance(bins, QuantileBins):
        edges = [np.array(e) for e in bins.edges]
        return np.stack([np.diff(e)[k] for e, k in zip(edges, bins.encode(actions).T, strict=True)], -1) / 2
    return (high - low) / (256 if isinstance(bins, UniformBins) else 20) / 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokens", ["integers", "overwrite", "append"])
@pytest.mark.parametrize("name", SETTINGS)
@given(seed=st.integers(0, 2**32), share=st.floats(-0.1, 1.1))
@settings(max_examples=10, deadline=None)
def test_values_come_back_from_their_token_ids(contract, vocabulary, name, tokens, family, seed, share):
    codec = action_codec(contract(name))
    vocab, tokenizer = vocabulary(codec, tokens, family)
    rng, space = np.random.default_rng(seed), codec.space
    low, high = np.array(space.low), np.array(space.high)
    actions = low + (high - low) * rng.uniform(-0.1, 1.1, (codec.chunk, space.size))
    actions[0], actions[1], actions[2] = low, high, low + share * (high - low)
    flags = rng.random(codec.chunk) < 0.5
    ids = vocab.symbols_to_ids(codec.encode(actions, flags)[0])
    assert ids.dtype == np.int64 and (ids >= 0).all() and (ids < len(tokenizer)).all()
    assert not set(ids.tolist()) & set(tokenizer.all_special_ids)
    symbols = vocab.ids_to_symbols(ids)
    back, decoded_flags = codec.decode(symbols)
    assert np.array_equal(decoded_flags, flags) and (back[:, 1] == 0.1).all()
    actions[:, 1] = 0.1
    if name == "fast":
        inside = 2 * (actions.clip(low, high) - low) / (high - low) - 1
        expected, decoded = cosines(inside), cosines(codec.fast.decode(symbols[codec.flags :], *inside.shape))
        assert abs(expected - decoded).max() <= 0.5 / codec.fast.scale + 1e-9
    else:
        bins = codec.bins if isinstance(codec, StepCodec) else codec.levels
        assert (abs(back - actions.clip(bins.low, bins.high)) <= half_bin(codec, actions) * (1 + 1e-9) + 1e-12)[:, [0, 2]].all()


def cosines(chunk: np.ndarray) -> np.ndarray:
    """The orthonormal discrete cosine transform of [T, A] by its definition."""
    length = len(chunk)
    k, n = np.mgrid[:length, :length]
    waves = np.cos(np.pi * (2 * n + 1) * k / (2 * length)) * np.sqrt(np.where(k == 0, 1, 2) / length)
    return waves @ chunk


@pytest.fixture(scope="module")
def llama_sized():
    """A tokenizer of 32000 tokens and an added padding token, like OpenVLA's."""
    words = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(3, 32000))])}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<PAD>")


def test_ids_and_values_are_openvla_s(llama_sized):
    """OpenVLA's definition: 256 edges, id 32000 - digitize, decoded to centres; the padding token does not count."""
    rng = np.random.default_rng(0)
    q01, q99, mask = np.array([-0.03, -0.5, -1.0]), np.array([0.02, 0.7, 1.0]), np.array([True, True, False])
    space = Space(
        ("x", "rz", "gripper"), ("m", "rad", ""), (-1,) * 3, (1,) * 3, statistics={"q01": tuple(q01), "q99": tuple(q99)}
    )
    codec = StepCodec(OpenVLABins(space, ["gripper"]), 1, False)
    vocab = Vocabulary.from_tokenizer(llama_sized, "overwrite", codec.spelling)
    edges = np.linspace(-1, 1, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    ends = np.stack([q01, q99, q01 - 1, q99 + 1, (q01 + q99) / 2])
    for action in [*ends, *rng.uniform(-1, 1, (500, 3)), *rng.uniform(q01, q99, (500, 3))]:
        scaled = np.where(mask, np.clip(2 * (action - q01) / (q99 - q01 + 1e-8) - 1, -1, 1), action)
        expected = 32000 - np.digitize(np.clip(scaled, -1, 1), edges)
        ids = vocab.symbols_to_ids(codec.encode(action[None], np.zeros(1, bool))[0])
        assert np.array_equal(ids, expected)
        normalised = centres[np.clip(32000 - expected - 1, 0, 254)]
        value = np.where(mask, 0.5 * (normalised + 1) * (q99 - q01) + q01, normalised)
        assert np.array_equal(codec.decode(vocab.ids_to_symbols(ids))[0][0], value)
    assert vocab.action_ids == tuple(range(31999, 31743, -1)) and (centres[254], 31743) != (1, vocab.action_ids[-1])


def test_every_kind_of_action_tokens_leaves_the_others_unchanged(families):
    for tokenizer in families.values():
        base = tokenizer.vocab_size
        least = action_token_ids(tokenizer, "overwrite", [str(i) for i in range(21)])
        assert least == tuple(range(base - 1, base - 22, -1))
        assert action_token_ids(tokenizer, f"overwrite:{base - 11}", ["0", "1"]) == (base - 11, base - 12)
        integers = action_token_ids(tokenizer, "integers", [str(i) for i in range(256)])
        assert [tokenizer.convert_ids_to_tokens(i).lstrip("▁Ġ") for i in integers] == [str(i) for i in range(256)]
        digits = action_token_ids(tokenizer, "integers", list("0123456789 -"))
        assert len(set(digits)) == 12


@pytest.mark.parametrize(
    ("tokens", "count", "match"),
    [
        ("integers", 1024, "tokens are missing"),
        ("overwrite", 5000, "no 5000 tokens"),
        ("overwrite:99999", 10, "no 10 tokens from id 99999"),
        ("append", 3, "<act0>"),
        ("prepend", 3, "unknown action tokens 'prepend'"),
        ("overwrite:x", 3, "unknown action tokens 'overwrite:x'"),
    ],
)
def test_action_tokens_that_a_tokenizer_lacks_are_named(families, tokens, count, match):
    with pytest.raises(UserError, match=match):
        action_token_ids(families["wordpiece"], tokens, [str(i) for i in range(count)])


def test_ids_and_symbols_outside_the_action_vocabulary_are_named(families):
    vocab = Vocabulary.from_tokenizer(families["byte-level"], "overwrite", ["0", "1", "2"])
    with pytest.raises(UserError, match=r"token ids \[5\] are not an action token"):
        vocab.ids_to_symbols(np.array([vocab.action_ids[0], 5]))
    with pytest.raises(UserError, match="not symbols from 0 to 2"):
        vocab.symbols_to_ids(np.array([3]))
    with pytest.raises(UserError, match="no location tokens"):
        vocab.point_to_ids(0.5, 0.5)


def test_a_tokenizer_without_integers_lends_action_tokens_or_says_so(llama_sized):
    many = Vocabulary.from_tokenizer(llama_sized, "overwrite", [str(i) for i in range(256)])
    assert many.integer_ids == many.action_ids
    few = Vocabulary.from_tokenizer(llama_sized, "overwrite", ["0", "1"])
    with pytest.raises(UserError, match=r"no integer tokens[\s\S]*leave \{state\} out"):
        few.bins_to_ids(np.array([1]))
