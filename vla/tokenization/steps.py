"""Step by step: every action is its flag, then one symbol per dimension (RT-2), or one number in digits (VLA-0)."""

from __future__ import annotations

import numpy as np

from vla.errors import UserError
from vla.tokenization.base import ActionCodec, Malformed
from vla.tokenization.bins import Bins, Levels


class StepCodec(ActionCodec):
    """One symbol per value: all chunks have the same length.

    Args:
        bins: of the values; their integers are the symbols, of which 0 and 1 are also the flag's.
        chunk, terminate: the contract's.
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
        rows = symbols.reshape(self.chunk, self.width)
        flags = rows[:, 0] if self.terminate else np.zeros(self.chunk, np.int64)
        if (flags > 1).any():
            raise Malformed(f"the terminate flag is {flags.max()}", "codec")
        return self.bins.decode(rows[:, int(self.terminate) :]), flags == 1

    def next(self, written: np.ndarray) -> tuple[np.ndarray, bool]:
        if len(written) >= self.longest:
            return np.array([], np.int64), True
        return self._step[len(written) % self.width], False

    def places(self) -> list[np.ndarray]:
        return self._step * self.chunk

    def ordinal(self) -> list[bool]:
        """All dimensions but constant ones and those with two values in the data (a gripper that is open or closed)."""
        return ([False] * self.terminate + (self.varies & ~self.space.binary()).tolist()) * self.chunk


class NumberCodec(ActionCodec):
    """Integers in digits, a space between two of them: "0 500 1000 …" (VLA-0; with -10 to 10, Language-Table's "X Y").

    No place is ordinal: a number's median is not made of its digits' medians, since "5" begins 5, 50 and 500.

    Symbols are the ten digits, the space and, if there are negative numbers, the minus. They are put together as symbols, so
    that no tokenizer can split or join them; chunks are of unequal length.

    Args:
        levels: of the values.
        lowest: the integer of the lower limit.
        chunk, terminate: the contract's.
    """

    SPACE, MINUS = 10, 11

    def __init__(self, levels: Levels, lowest: int, chunk: int, terminate: bool):
        super().__init__(levels.space, chunk, terminate)
        if levels.count > 2**16:
            raise UserError(f"{levels.count} numbers", "codec_args", f"give at most {2**16}")
        self.levels, self.lowest, self.size = levels, lowest, 12 if lowest < 0 else 11
        every = _trie(range(lowest, lowest + levels.count))
        legal = [every if len(bins) > 1 else _trie([lowest + int(bins[0])]) for bins in levels.legal()]
        # What may be written of each number of a step: beginning -> symbols that may follow, and whether it is a number itself.
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
        for place, number in enumerate(np.concatenate(columns, 1).reshape(-1).tolist()):
            written = [*([self.SPACE] if place else ()), *_digits(number)]
            symbols += written
            steps += [place // self.width] * len(written)
        return np.array(symbols, np.int64), np.array(steps, np.int64)

    def decode(self, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        written = _split(symbols)
        if len(written) != self.chunk * self.width:
            raise Malformed(f"{len(written)} of {self.chunk * self.width} numbers", "codec")
        for place, number in enumerate(written):
            if not self._fields[place % self.width].get(number, ((), False))[1]:
                raise Malformed(f"“{_text(number)}” is not one of the numbers that may stand in place {place}", "codec")
        rows = np.array([int(_text(number)) for number in written], np.int64).reshape(self.chunk, self.width)
        flags = rows[:, 0] == 1 if self.terminate else np.zeros(self.chunk, bool)
        return self.levels.decode(rows[:, int(self.terminate) :] - self.lowest), flags

    def next(self, written: np.ndarray) -> tuple[np.ndarray, bool]:
        spaces = np.flatnonzero(np.asarray(written) == self.SPACE)
        current = tuple(np.asarray(written)[spaces[-1] + 1 if len(spaces) else 0 :].tolist())
        last = len(spaces) == self.chunk * self.width - 1
        field = self._fields[len(spaces) % self.width]
        if len(spaces) >= self.chunk * self.width or current not in field:
            raise Malformed(f"no number begins with “{_text(current)}” in place {len(spaces)}", "codec")
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


def _trie(numbers) -> Trie:
    whole = {_digits(n) for n in numbers}
    follow: dict[tuple[int, ...], set[int]] = {number: set() for number in whole}
    for number in whole:
        for length in range(len(number)):
            follow.setdefault(number[:length], set()).add(number[length])
    return {beginning: (tuple(sorted(after)), beginning in whole) for beginning, after in follow.items()}
