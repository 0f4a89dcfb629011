"""FAST: a chunk's discrete cosine transform, rounded and written by a byte-pair encoding (Pertsch et al. 2025, section IV)."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.fft import dct, idct
from tokenizers import Tokenizer, decoders, models, trainers

from vla.errors import UserError
from vla.tokenization.base import Malformed

SURROGATES = 0xD800
"""Unicode characters end here, for a while."""


class Fast:
    """Chunks [T, A] in [-1, 1] <-> token ids of any number. Every coefficient comes back within 0.5 / scale.

    Coefficients are orthonormal along time, times `scale`, rounded, the lowest frequency of every dimension first; less `offset`
    they are characters, which the byte-pair encoding joins.

    Args:
        bpe: of the tokenizers library.
        scale: levels per unit.
        offset: the smallest coefficient, character 0 (`min_token`).
    """

    def __init__(self, bpe: Tokenizer, scale: float = 10, offset: int = 0):
        if not scale > 0:
            raise UserError(f"scale {scale}", "fast", "give more than 0")
        self.bpe, self.scale, self.offset = bpe, scale, offset
        self.size = bpe.get_vocab_size()

    @classmethod
    def fit(cls, chunks: Iterable[np.ndarray], length: int, scale: float = 10, vocab_size: int = 1024) -> Fast:
        """Learns the encoding from chunks [T, A] in [-1, 1].

        Its alphabet has every coefficient that a chunk of `length` steps can have, so that none is ever missing.

        Raises:
            UserError: the alphabet is larger than the vocabulary.
        """
        # No sum of T numbers in [-1, 1] with weights of norm 1 is larger than the root of T.
        most = math.ceil(scale * math.sqrt(length))
        if 2 * most + 1 > min(vocab_size, SURROGATES):
            raise UserError(
                f"{2 * most + 1} coefficients at scale {scale:g} for {vocab_size} tokens",
                "fast",
                "lower scale, or raise vocab_size",
            )
        bpe = Tokenizer(models.BPE())
        bpe.decoder = decoders.Fuse()
        fast = cls(bpe, scale, -most)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            show_progress=False,
            special_tokens=[],
            initial_alphabet=[chr(i) for i in range(2 * most + 1)],
            max_token_length=10_000,
        )
        bpe.train_from_iterator((fast._text(fast.coefficients(chunk)) for chunk in chunks), trainer)
        return cls(bpe, scale, -most)

    def coefficients(self, chunk: np.ndarray) -> np.ndarray:
        """A chunk [T, A] in [-1, 1] -> its rounded coefficients, integers [T, A]."""
        waves = np.asarray(dct(np.asarray(chunk, np.float64), axis=0, norm="ortho"))
        return np.rint(waves * self.scale).astype(np.int64)

    def _text(self, coefficients: np.ndarray) -> str:
        numbers = coefficients.reshape(-1) - self.offset
        if (numbers < 0).any() or (numbers >= SURROGATES).any():
            bad = coefficients.reshape(-1)[(numbers < 0) | (numbers >= SURROGATES)][0]
            raise UserError(f"coefficient {bad} has no character", "fast", "fit the encoding on your own data")
        return "".join(map(chr, numbers.tolist()))

    def encode(self, chunk: np.ndarray) -> np.ndarray:
        """A chunk [T, A] in [-1, 1] -> token ids [N].

        Raises:
            UserError: a coefficient that the encoding has never seen (it would be lost without a word).
        """
        text = self._text(self.coefficients(chunk))
        ids = self.bpe.encode(text, add_special_tokens=False).ids
        if self.bpe.decode(ids, skip_special_tokens=False) != text:
            raise UserError("a coefficient is not in the alphabet of the encoding", "fast", "fit it on your own data")
        return np.array(ids, np.int64)

    def decode(self, ids: np.ndarray, length: int, size: int) -> np.ndarray:
        """Token ids [N] -> the chunk [length, size].

        Raises:
            Malformed: they are not length * size coefficients.
        """
        text = self.bpe.decode(np.asarray(ids).tolist(), skip_special_tokens=False)
        if len(text) != length * size or "\ufffd" in text:
            raise Malformed(f"{len(text)} of {length * size} coefficients" + ", some broken" * ("\ufffd" in text), "fast")
        coefficients = np.array([ord(c) for c in text], np.float64).reshape(length, size) + self.offset
        return np.asarray(idct(coefficients / self.scale, axis=0, norm="ortho"))

    @functools.cached_property
    def pieces(self) -> np.ndarray:
        """Of each token int [size, 3]: bytes ending a character begun before it, characters begun in it, bytes its last lacks.

        A published encoding is over the bytes of UTF-8, where a token may be half a character; in ours all are whole.
        """
        of_byte = _byte_letters() if isinstance(self.bpe.decoder, decoders.ByteLevel) else {}
        rows = np.zeros((self.size, 3), np.int64)
        for token, i in self.bpe.get_vocab().items():
            content = bytes(of_byte[c] for c in token) if of_byte and set(token) <= of_byte.keys() else token.encode()
            inner = [byte & 0xC0 == 0x80 for byte in content]
            ends = inner.index(False) if False in inner else len(inner)
            begun = len(inner) - sum(inner)
            if begun:
                lead = len(inner) - 1 - inner[::-1].index(False)
                wanted = sum(content[lead] >= start for start in (0xC0, 0xE0, 0xF0))
                rows[i] = ends, begun, wanted - (len(inner) - 1 - lead)
            else:
                rows[i] = ends, 0, -ends
        return rows

    def next(self, written: np.ndarray, count: int) -> np.ndarray:
        """The tokens that can follow those written, if there are to be `count` coefficients; none where all are there.

        Raises:
            Malformed: there are too many already.
        """
        done = self.pieces[np.asarray(written, np.int64)]
        left, open_bytes = count - int(done[:, 1].sum()), self._open(done)
        if left < 0:
            raise Malformed(f"{count - left} of {count} coefficients", "fast")
        ends, begun, _ = self.pieces.T
        fits = (begun <= left) & np.where(begun > 0, ends == open_bytes, ends <= open_bytes)
        return np.flatnonzero(fits & ((begun > 0) | (ends > 0)))

    @staticmethod
    def _open(done: np.ndarray) -> int:
        """How many bytes the last character lacks."""
        last = np.flatnonzero(done[:, 1])
        return int(done[last[-1] :, 2].sum()) if len(last) else 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, whole: what `from_dict` reads."""
        return {"scale": self.scale, "offset": self.offset, "bpe": json.loads(self.bpe.to_str())}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Fast:
        return cls(_tokenizer(json.dumps(data["bpe"]), "contract codec_args.bpe"), data["scale"], data["offset"])

    def save(self, folder: str | Path, length: int = 0, size: int = 0) -> None:
        """Writes the folder as FAST's processor reads it: the tokenizer and processor_config.json."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "processor_class": "UniversalActionProcessor",
            "scale": self.scale,
            "vocab_size": self.size,
            "min_token": self.offset,
            "action_dim": size or None,
            "time_horizon": length or None,
        }
        kind = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        self.bpe.save(str(folder / "tokenizer.json"))
        for name, content in (("processor_config.json", config), ("tokenizer_config.json", kind)):
            (folder / name).write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Fast:
        """Reads a folder that `save` or FAST's processor wrote. Code that lies beside it is not run.

        Raises:
            UserError: a file is missing or not what it should be.
        """
        folder = Path(folder)
        places = [folder / "tokenizer.json", folder / "bpe_tokenizer" / "tokenizer.json"]
        found = next((path for path in places if path.is_file()), None)
        config = folder / "processor_config.json"
        if found is None or not config.is_file():
            raise UserError(
                "no tokenizer.json with processor_config.json", str(folder), "give a folder that holds a FAST tokenizer"
            )
        try:
            said = json.loads(config.read_text())
            scale, offset = float(said["scale"]), int(said["min_token"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"no scale and min_token: {error}", str(config)) from error
        return cls(_tokenizer(found.read_text(), str(found)), scale, offset)


def _tokenizer(text: str, where: str) -> Tokenizer:
    try:
        return Tokenizer.from_str(text)
    except Exception as error:
        raise UserError(f"not a tokenizer: {error}", where) from error


def _byte_letters() -> dict[str, int]:
    """The letters that stand for bytes in byte-level encodings: printable ones for themselves, the others from U+0100 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}
