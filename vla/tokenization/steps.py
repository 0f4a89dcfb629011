"""Codecs that write actions step by step: a flag, then one symbol (RT-2) or one number in digits (VLA-0) per dimension."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from einops import rearrange

from vla.errors import UserError
from vla.tokenization.base import ActionCodec, Malformed
from vla.tokenization.bins import Bins, Levels


class StepCodec(ActionCodec):
    """One symbol per value, so all chunks have the same length.

    Args:
        bins: bins of the values; their integers are the symbols. The flag uses 0 and 1 too.
        chunk, terminate: as in the contract.
    """

    fixed = True

    def __init__(self, bins: Bins, chunk: int, terminate: bool):
        super().__init__(bins.space, chunk, terminate)
        self.bins, self.size = bins, bins.count
        self._step = [np.array([0, 1])] * terminate + bins.legal()
        self.width = len(self._step)
        self.longest = chunk * self.width

    def encode(self, actions: np.ndarray, terminate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        actions, terminate = self.check(actions, terminate)
        columns = [terminate[:, None].astype(np.int64)] * self.terminate + [self.bins.encode(actions)]
        return np.concatenate(columns, 1).reshape(-1), np.repeat(np.arange(self.chunk), self.width)

    def decode(self, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        symbols = np.asarray(symbols)
        if symbols.shape != (self.longest,):
            raise Malformed(f"{symbols.size} of {self.longest} action tokens", "codec")
        rows = rearrange(symbols, "(step value) -> step value", step=self.chunk)
        flags = rows[:, 0] if self.terminate else np.zeros(self.chunk, np.int64)
        if (flags > 1).any():
            raise Malformed(f"the terminate flag is {flags.max()}", "codec")
        return self.bins.decode(rows[:, int(self.terminate) :]), flags == 1

    def next(self, written: np.ndarray) -> tuple[np.ndarray, bool]:
        if len(written) >= self.longest:
            return np.array([], np.int64), True
        return self._step[len(written) % self.width], False

    def positions(self) -> list[np.ndarray]:
        return self._step * self.chunk

    def ordinal(self) -> list[bool]:
        """All dimensions but constant ones and those with two values in the data (a gripper that is open or closed)."""
        # Older contracts have the statistics, but not `binary`.
        return ([False] * self.terminate + (self.space.free & ~self.space.two_valued()).tolist()) * self.chunk


class NumberCodec(ActionCodec):
    """Integers in digits, separated by spaces: "0 500 1000 …" (VLA-0; with -10 to 10, Language-Table's "X Y").

    No position is ordinal: the medians of the digits are not the median of the number, since 5, 50 and 500 all begin with "5".

    The symbols are the ten digits, the space and, if there are negative numbers, the minus. They are symbols and not text, so no
    tokenizer can split or join them. Chunks differ in length.

    Args:
        levels: levels of the values.
        lowest: the integer for the lower limit.
        chunk, terminate: as in the contract.
    """

    SPACE, MINUS = 10, 11

    def __init__(self, levels: Levels, lowest: int, chunk: int, terminate: bool):
        super().__init__(levels.space, chunk, terminate)
        if levels.count > 2**16:
            raise UserError(f"{levels.count} numbers", "codec_args", f"give at most {2**16}")
        self.levels, self.lowest, self.size = levels, lowest, 12 if lowest < 0 else 11
        all_numbers = _trie(range(lowest, lowest + levels.count))
        legal = [all_numbers if len(bins) == levels.count else _trie((lowest + bins).tolist()) for bins in levels.legal()]
        # For each number of a step: beginning -> the symbols that may follow, and whether the beginning is itself a number.
        self._fields = [_trie([0, 1])] * terminate + legal
        self.width = len(self._fields)
        self.longest = chunk * sum(1 + max(map(len, field)) for field in self._fields) - 1

    @property
    def spelling(self) -> tuple[str, ...]:
        return tuple("0123456789 -"[: self.size])

    def encode(self, actions: np.ndarray, terminate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        actions, terminate = self.check(actions, terminate)
        columns = [terminate[:, None].astype(np.int64)] * self.terminate + [self.levels.encode(actions) + self.lowest]
        symbols, steps = [], []
        for position, number in enumerate(np.concatenate(columns, 1).reshape(-1).tolist()):
            written = [*([self.SPACE] if position else ()), *_digits(number)]
            symbols += written
            steps += [position // self.width] * len(written)
        return np.array(symbols, np.int64), np.array(steps, np.int64)

    def decode(self, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        numbers = _split(symbols)
        if len(numbers) != self.chunk * self.width:
            raise Malformed(f"{len(numbers)} of {self.chunk * self.width} numbers", "codec")
        for position, number in enumerate(numbers):
            if not self._fields[position % self.width].get(number, ((), False))[1]:
                raise Malformed(f"number {position} cannot be “{_text(number)}”", "codec")
        values = np.array([int(_text(number)) for number in numbers], np.int64)
        rows = rearrange(values, "(step value) -> step value", step=self.chunk)
        flags = rows[:, 0] == 1 if self.terminate else np.zeros(self.chunk, bool)
        return self.levels.decode(rows[:, int(self.terminate) :] - self.lowest), flags

    def next(self, written: np.ndarray) -> tuple[np.ndarray, bool]:
        spaces = np.flatnonzero(np.asarray(written) == self.SPACE)
        current = tuple(np.asarray(written)[spaces[-1] + 1 if len(spaces) else 0 :].tolist())
        last = len(spaces) == self.chunk * self.width - 1
        field = self._fields[len(spaces) % self.width]
        if len(spaces) >= self.chunk * self.width or current not in field:
            raise Malformed(f"number {len(spaces)} cannot begin with “{_text(current)}”", "codec")
        follow, whole = field[current]
        return np.array([*follow, *([self.SPACE] if whole and not last else ())], np.int64), whole and last


Trie = dict[tuple[int, ...], tuple[tuple[int, ...], bool]]


def _digits(number: int) -> tuple[int, ...]:
    return tuple(NumberCodec.MINUS if c == "-" else int(c) for c in str(number))


def _text(number: tuple[int, ...]) -> str:
    return "".join("-" if symbol == NumberCodec.MINUS else str(symbol) for symbol in number)


def _split(symbols: np.ndarray) -> list[tuple[int, ...]]:
    """The numbers between the spaces."""
    symbols = np.asarray(symbols, np.int64)
    spaces = np.flatnonzero(symbols == NumberCodec.SPACE)
    return [tuple(part[part != NumberCodec.SPACE].tolist()) for part in np.split(symbols, spaces)]


def _trie(numbers: Iterable[int]) -> Trie:
    whole = {_digits(n) for n in numbers}
    follow: dict[tuple[int, ...], set[int]] = {number: set() for number in whole}
    for number in whole:
        for length in range(len(number)):
            follow.setdefault(number[:length], set()).add(number[length])
    return {beginning: (tuple(sorted(after)), beginning in whole) for beginning, after in follow.items()}
