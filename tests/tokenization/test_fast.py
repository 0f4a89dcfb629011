"""FAST by its definition, its folders, and what it does with sequences that are none."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dct, idct
from tokenizers import ByteLevelBPETokenizer, Tokenizer, trainers

from vla.errors import UserError
from vla.tokenization.base import Malformed
from vla.tokenization.fast import Fast, _byte_letters

LENGTH, SIZE = 8, 3


def smooth(rng: np.random.Generator) -> np.ndarray:
    return np.clip(np.cumsum(rng.normal(0, 0.25, (LENGTH, SIZE)), 0), -1, 1)


@pytest.fixture(scope="module")
def fast():
    rng = np.random.default_rng(0)
    return Fast.fit((smooth(rng) for _ in range(800)), LENGTH, scale=10, vocab_size=400)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder in the published form: byte-level encoding of characters that begin at the smallest coefficient of the data."""
    folder, rng = tmp_path_factory.mktemp("published"), np.random.default_rng(0)
    chunks = [np.round(dct(smooth(rng), axis=0, norm="ortho") * 10).astype(int) for _ in range(800)]
    lowest = min(c.min() for c in chunks)
    # So many characters that some are two bytes of UTF-8.
    lowest -= 110
    encoding = ByteLevelBPETokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=600, min_frequency=2, show_progress=False, special_tokens=[], initial_alphabet=[chr(i) for i in range(200)]
    )
    texts = ["".join(chr(v - lowest) for v in c.flatten()) for c in chunks]
    encoding._tokenizer.train_from_iterator(texts, trainer=trainer)
    encoding.save(str(folder / "tokenizer.json"))
    config = {"scale": 10, "vocab_size": 600, "min_token": int(lowest), "processor_class": "UniversalActionProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(config))
    (folder / "processing_action_tokenizer.py").write_text("raise SystemExit('code of a folder was run')")
    return folder, int(lowest)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_every_coefficient_comes_back_within_half_a_level(fast, seed):
    rng = np.random.default_rng(seed)
    for chunk in (
        smooth(rng),
        rng.uniform(-1, 1, (LENGTH, SIZE)),
        rng.choice([-1.0, 1.0], (LENGTH, SIZE)),
        np.ones((LENGTH, SIZE)),
    ):
        back = fast.decode(fast.encode(chunk), LENGTH, SIZE)
        off = dct(back, axis=0, norm="ortho") - dct(chunk, axis=0, norm="ortho")
        assert abs(off).max() <= 0.5 / fast.scale + 1e-9


def test_a_published_folder_is_read_by_its_definition(published):
    """Characters of round(coefficient * scale) - min_token, frequency by frequency, through the folder's encoding."""
    folder, lowest = published
    fast, rng = Fast.load(folder), np.random.default_rng(7)
    assert (fast.scale, fast.offset, fast.size) == (10, lowest, fast.bpe.get_vocab_size())
    for _ in range(100):
        chunk = smooth(rng)
        coefficients = np.round(dct(chunk, axis=0, norm="ortho") * 10)
        text = "".join(chr(int(v)) for v in coefficients.flatten() - lowest)
        ids = fast.encode(chunk)
        assert ids.tolist() == fast.bpe.encode(text).ids
        assert np.allclose(fast.decode(ids, LENGTH, SIZE), idct(coefficients / 10, axis=0, norm="ortho"), atol=1e-12)
        for i in range(len(ids)):
            assert ids[i] in fast.next(ids[:i], LENGTH * SIZE)
        assert not len(fast.next(ids, LENGTH * SIZE))


def test_a_saved_folder_says_the_same(fast, tmp_path):
    fast.save(tmp_path, LENGTH, SIZE)
    other, chunk = Fast.load(tmp_path), smooth(np.random.default_rng(3))
    assert np.array_equal(other.encode(chunk), fast.encode(chunk)) and other.to_dict() == fast.to_dict()
    config = json.loads((tmp_path / "processor_config.json").read_text())
    assert config["min_token"] == fast.offset and (config["time_horizon"], config["action_dim"]) == (LENGTH, SIZE)
    assert Fast.from_dict(json.loads(json.dumps(fast.to_dict()))).to_dict() == fast.to_dict()


def test_smooth_chunks_need_few_tokens(fast):
    rng = np.random.default_rng(5)
    assert np.mean([len(fast.encode(smooth(rng))) for _ in range(50)]) < 0.7 * LENGTH * SIZE


@pytest.mark.parametrize("change", ["short", "long", "none"])
def test_a_malformed_sequence_is_never_zeros(fast, change):
    ids = fast.encode(smooth(np.random.default_rng(1)))
    wrong = {"short": ids[:-1], "long": np.append(ids, ids[0]), "none": ids[:0]}[change]
    with pytest.raises(Malformed, match=f"of {LENGTH * SIZE} coefficients"):
        fast.decode(wrong, LENGTH, SIZE)


def test_broken_characters_are_malformed(published):
    fast = Fast.load(published[0])
    half = fast.bpe.token_to_id("Ã")
    with pytest.raises(Malformed, match="broken"):
        fast.decode(np.full(LENGTH * SIZE, half), LENGTH, SIZE)
    # Only what ends the character can follow it.
    for token in fast.next(np.array([half]), LENGTH * SIZE):
        assert "\ufffd" not in fast.bpe.decode([half, int(token)])
    with pytest.raises(Malformed, match="broken"):
        fast.next(np.array([half, half]), LENGTH * SIZE)


@pytest.mark.parametrize("letters", [200, 400])
def test_whatever_follows_legally_is_a_chunk_in_bytes_too(published, letters):
    """With more than 323 characters every byte is a token, those with which no character begins among them."""
    fast = Fast.load(published[0])
    if letters > 200:
        encoding = ByteLevelBPETokenizer()
        trainer = trainers.BpeTrainer(vocab_size=600, show_progress=False, initial_alphabet=[chr(i) for i in range(324)])
        encoding._tokenizer.train_from_iterator(["".join(map(chr, range(letters)))], trainer=trainer)
        fast = Fast(Tokenizer.from_str(encoding._tokenizer.to_str()), 10, -letters // 2)
        voc, letter = fast.bpe.get_vocab(), {byte: letter for letter, byte in _byte_letters().items()}
        for broken in (b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff"):
            ids, known = [voc[letter[byte]] for byte in broken], []
            while ids and ids[0] in fast.next(np.array(known, np.int64), LENGTH * SIZE):
                known.append(ids.pop(0))
            assert ids, broken
    for seed in range(60):
        rng, written = np.random.default_rng(seed), np.array([], np.int64)
        while len(legal := fast.next(written, LENGTH * SIZE)):
            written = np.append(written, rng.choice(legal))
        assert fast.decode(written, LENGTH, SIZE).shape == (LENGTH, SIZE)


def test_a_coefficient_that_the_encoding_does_not_know_is_named(published):
    fast = Fast.load(published[0])
    with pytest.raises(UserError, match="fit"):
        fast.encode(1e6 * np.ones((LENGTH, SIZE)))
    with pytest.raises(UserError, match="has no character"):
        fast.encode(-1e6 * np.ones((LENGTH, SIZE)))


def test_what_cannot_be_fitted_or_loaded_is_named(tmp_path):
    with pytest.raises(UserError, match="coefficients at scale 500 for 1024 tokens"):
        Fast.fit([], 4, scale=500)
    with pytest.raises(UserError, match="no tokenizer.json"):
        Fast.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "processor_config.json").write_text("{}")
    with pytest.raises(UserError, match="no scale and min_token"):
        Fast.load(tmp_path)
    (tmp_path / "processor_config.json").write_text('{"scale": 10, "min_token": 0}')
    with pytest.raises(UserError, match="not a tokenizer"):
        Fast.load(tmp_path)
