"""FAST as an action codec: a whole chunk in few tokens."""

from __future__ import annotations

import numpy as np
from tokenizers import decoders

from vla.errors import UserError
from vla.space import Space
from vla.tokenization.base import ActionCodec, Malformed
from vla.tokenization.fast import Fast


class FastCodec(ActionCodec):
    """FAST over a chunk: one flag per step (symbol 0 or 1) if the contract has flags, then the encoding's tokens.

    No position is ordinal, since a token stands for several coefficients.

    Actions are scaled to [-1, 1] by the limits of the space, or by q01 and q99 of the data (as pi0-FAST does), and clipped. A
    binary dimension is scaled by its two values, and a decoded value becomes the nearer of them.

    Args:
        space, chunk, terminate: as in the contract.
        fast: the encoding.
        by: "limits" or "quantiles".
    """

    numeric = False

    def __init__(self, space: Space, chunk: int, terminate: bool, fast: Fast, by: str = "limits"):
        super().__init__(space, chunk, terminate)
        self.fast, self.size, self.flags = fast, fast.size, chunk * terminate
        self.low, self.high = scaling(space, by)
        self.longest = self.flags + chunk * space.size * (1 + 3 * isinstance(fast.bpe.decoder, decoders.ByteLevel))

    def encode(self, actions: np.ndarray, terminate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        actions, terminate = self.check(actions, terminate)
        ids = self.fast.encode(scaled(actions, self.low, self.high))
        flags = terminate.astype(np.int64)[: self.flags]
        steps = np.concatenate([np.arange(self.flags), np.zeros(len(ids), np.int64)])
        return np.concatenate([flags, ids]), steps

    def decode(self, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        symbols = np.asarray(symbols, np.int64)
        flags, ids = symbols[: self.flags], symbols[self.flags :]
        if len(flags) < self.flags or (flags > 1).any():
            raise Malformed(f"{flags.tolist()} are not {self.flags} terminate flags", "codec")
        values = np.clip(self.fast.decode(ids, self.chunk, self.space.size), -1, 1)
        actions = self.low + (values + 1) / 2 * (self.high - self.low)
        return self.space.settled(actions), flags == 1 if self.flags else np.zeros(self.chunk, bool)

    def next(self, written: np.ndarray) -> tuple[np.ndarray, bool]:
        if len(written) < self.flags:
            return np.array([0, 1]), False
        ids = self.fast.next(written[self.flags :], self.chunk * self.space.size)
        return ids, not len(ids)

    def positions(self) -> list[np.ndarray]:
        return [np.array([0, 1])] * self.flags + [np.arange(self.size)] * (self.longest - self.flags)


def scaling(space: Space, by: str) -> tuple[np.ndarray, np.ndarray]:
    """The values that become -1 and 1; UserError if `by` is unknown, or the space has no quantiles."""
    low, high = np.array(space.low, np.float64), np.array(space.high, np.float64)
    if by == "quantiles" and {"q01", "q99"} <= space.statistics.keys():
        low, high = (np.array(space.statistics[end], np.float64) for end in ("q01", "q99"))
    elif by != "limits":
        raise UserError(
            f"range {by!r}", "contract codec_args", "use limits, or quantiles for a space with statistics q01 and q99"
        )
    binary = np.array([pair is not None for pair in space.binary], bool)
    return np.where(binary, space.ends[0], low), np.where(binary, space.ends[1], high)


def scaled(actions: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Scales actions [..., A] to [-1, 1]; a dimension without range gives 0."""
    span = np.where(high > low, high - low, 1)
    return np.where(high > low, np.clip(2 * (actions - low) / span - 1, -1, 1), 0)
