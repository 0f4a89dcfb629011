"""FAST: a chunk's discrete cosine transform, rounded and compressed by byte-pair encoding (Pertsch et al. 2025, section IV)."""

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
"""The first code point that is not a character."""
Range = tuple[int, int]
TAIL: Range = (0x80, 0xBF)
SECOND: dict[int, Range] = {0xE0: (0xA0, 0xBF), 0xED: (0x80, 0x9F), 0xF0: (0x90, 0xBF), 0xF4: (0x80, 0x8F)}
STATES: list[tuple[Range, ...]] = [
    (),
    *((TAIL,) * n for n in (1, 2, 3)),
    *((r, *(TAIL,) * (1 + (b > 0xEF))) for b, r in SECOND.items()),
]
"""States within a UTF-8 text: the ranges of the bytes that its last character still needs (RFC 3629, section 4)."""
BROKEN = -1


class Fast:
    """Chunks [T, A] in [-1, 1] <-> a variable number of token ids. Every coefficient decodes to within 0.5 / scale.

    The orthonormal transform along time is multiplied by `scale` and rounded. The coefficients, low frequencies of all dimensions
    first, minus `offset` are code points, and byte-pair encoding joins these characters to tokens.

    Args:
        bpe: a tokenizer of the tokenizers library.
        scale: levels per unit.
        offset: the smallest coefficient, which is character 0 (`min_token`).
    """

    def __init__(self, bpe: Tokenizer, scale: float = 10, offset: int = 0):
        if not scale > 0:
            raise UserError(f"scale {scale}", "fast", "give more than 0")
        self.bpe, self.scale, self.offset = bpe, scale, offset
        self.size = bpe.get_vocab_size()

    @classmethod
    def fit(cls, chunks: Iterable[np.ndarray], length: int, scale: float = 10, vocab_size: int = 1024) -> Fast:
        """Learns the encoding from chunks [T, A] in [-1, 1].

        Its alphabet contains every coefficient that a chunk of `length` steps can have.

        Raises:
            UserError: the alphabet is larger than the vocabulary.
        """
        # A sum of T numbers in [-1, 1] with weights of norm 1 is at most the square root of T.
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
            UserError: a coefficient is not in the encoding's alphabet, which would silently drop it.
        """
        text = self._text(self.coefficients(chunk))
        ids = self.bpe.encode(text, add_special_tokens=False).ids
        if self.bpe.decode(ids, skip_special_tokens=False) != text:
            raise UserError("a coefficient is not in the alphabet of the encoding", "fast", "fit it on your own data")
        return np.array(ids, np.int64)

    def decode(self, ids: np.ndarray, length: int, size: int) -> np.ndarray:
        """Token ids [N] -> the chunk [length, size].

        Raises:
            Malformed: the tokens are not length * size coefficients.
        """
        text = self.bpe.decode(np.asarray(ids).tolist(), skip_special_tokens=False)
        if len(text) != length * size or "\ufffd" in text:
            raise Malformed(f"{len(text)} of {length * size} coefficients" + ", some broken" * ("\ufffd" in text), "fast")
        coefficients = np.array([ord(c) for c in text], np.float64).reshape(length, size) + self.offset
        return np.asarray(idct(coefficients / self.scale, axis=0, norm="ortho"))

    @functools.cached_property
    def pieces(self) -> tuple[np.ndarray, np.ndarray]:
        """The number of characters that begin in each token, int [size], and its next state from each state, int [states, size].

        A published encoding works on the bytes of UTF-8, where a token may be part of a character. Ours has whole characters.
        """
        of_byte = _byte_letters() if isinstance(self.bpe.decoder, decoders.ByteLevel) else {}
        begun, leads = np.zeros(self.size, np.int64), np.full((len(STATES), self.size), BROKEN)
        for token, i in self.bpe.get_vocab().items():
            content = bytes(of_byte[c] for c in token) if of_byte and set(token) <= of_byte.keys() else token.encode()
            begun[i] = sum(byte & 0xC0 != 0x80 for byte in content)
            for number, state in enumerate(STATES if content else ()):
                after = _after(state, content)
                leads[number, i] = BROKEN if after is None else STATES.index(after)
        return begun, leads

    def next(self, written: np.ndarray, count: int) -> np.ndarray:
        """The tokens that may follow those written, for a total of `count` coefficients; empty when all are written.

        Raises:
            Malformed: there are too many coefficients already, or the bytes are not valid UTF-8.
        """
        begun, leads = self.pieces
        left, state = count - int(begun[np.asarray(written, np.int64)].sum()), 0
        for token in written:
            state = leads[state, token] if state != BROKEN else BROKEN
        if left < 0 or state == BROKEN:
            raise Malformed(f"{count - left} of {count} coefficients" + ", some broken" * bool(state == BROKEN), "fast")
        return np.flatnonzero((leads[state] != BROKEN) & (begun <= left))

    def to_dict(self) -> dict[str, Any]:
        """The whole encoding in JSON types, for `from_dict`."""
        return {"scale": self.scale, "offset": self.offset, "bpe": json.loads(self.bpe.to_str())}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Fast:
        return cls(_tokenizer(json.dumps(data["bpe"]), "contract codec_args.bpe"), data["scale"], data["offset"])

    def save(self, folder: str | Path, length: int = 0, size: int = 0) -> None:
        """Writes the folder that FAST's processor reads: the tokenizer and processor_config.json."""
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
        tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        self.bpe.save(str(folder / "tokenizer.json"))
        for name, content in (("processor_config.json", config), ("tokenizer_config.json", tokenizer_config)):
            (folder / name).write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Fast:
        """Reads a folder that `save` or FAST's processor wrote. Code in the folder is not run.

        Raises:
            UserError: a file is missing or invalid.
        """
        folder = Path(folder)
        candidates = [folder / "tokenizer.json", folder / "bpe_tokenizer" / "tokenizer.json"]
        tokenizer = next((path for path in candidates if path.is_file()), None)
        config = folder / "processor_config.json"
        if tokenizer is None or not config.is_file():
            raise UserError(
                "no tokenizer.json with processor_config.json", str(folder), "give a folder that holds a FAST tokenizer"
            )
        try:
            settings = json.loads(config.read_text())
            scale, offset = float(settings["scale"]), int(settings["min_token"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"no scale and min_token: {error}", str(config)) from error
        return cls(_tokenizer(tokenizer.read_text(), str(tokenizer)), scale, offset)


def _tokenizer(text: str, where: str) -> Tokenizer:
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library has no narrower exception
        raise UserError(f"not a tokenizer: {error}", where) from error


def _continuation(lead: int) -> tuple[Range, ...] | None:
    """The ranges of the bytes that follow a character's first byte; None if no character begins with it."""
    if lead < 0x80:
        return ()
    if not 0xC2 <= lead <= 0xF4:
        return None
    return (SECOND.get(lead, TAIL), *(TAIL,) * ((lead > 0xDF) + (lead > 0xEF)))


def _after(state: tuple[Range, ...], content: bytes) -> tuple[Range, ...] | None:
    """The state after these bytes; None if they cannot follow."""
    current: tuple[Range, ...] | None = state
    for byte in content:
        if current is None or (current and not current[0][0] <= byte <= current[0][1]):
            return None
        current = current[1:] if current else _continuation(byte)
    return current


def _byte_letters() -> dict[str, int]:
    """The letters for bytes in byte-level encodings: printable bytes as themselves, the others from U+0100 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}
