"""What an action codec is: chunks of actions <-> symbols. Symbols are integers from end to end and never pass through text."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from vla.contract import Space
from vla.errors import ContractMismatch, UserError


class Malformed(UserError):
    """What was written is no whole chunk. Whoever asked for actions gets this as a status, never made-up actions."""


class ActionCodec(ABC):
    """Chunks of T actions [T, A] in physical units <-> a row of symbols, integers from 0 to size - 1.

    Which symbols may come next is a function of those written so far (`next`); where every chunk has the same length and the
    choice depends on the place alone (`fixed`), `places` says it once and for all.

    Attributes:
        space: names, limits and constants of the A dimensions.
        chunk: T.
        terminate: whether each action has a flag that says that the task is done.
        size: how many symbols there are.
        spelling: how each symbol is written where a tokenizer's own words stand for symbols.
        numeric: whether that is what the symbol means, so that an embedding may begin as the word's.
        fixed: whether all chunks have the same length, as many symbols as `places` has entries.
        longest: how many symbols a chunk has at most.
    """

    size: int
    numeric = True
    fixed = False
    longest: int

    def __init__(self, space: Space, chunk: int, terminate: bool):
        self.space, self.chunk, self.terminate = space, chunk, terminate
        self.varies = np.array([c is None for c in space.constant], bool)
        self.constant = np.array([0.0 if c is None else c for c in space.constant], np.float64)

    @property
    def spelling(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.size)))

    @abstractmethod
    def encode(self, actions: np.ndarray, terminate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Actions [T, A] and their flags [T] -> symbols [N], and the step [N] that each belongs to (0 where it is all of them).

        Raises:
            ContractMismatch: another shape than the contract's, NaN or infinity.
        """

    @abstractmethod
    def decode(self, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Symbols [N] -> actions [T, A], float64, and flags [T].

        Raises:
            Malformed: they are no whole chunk.
        """

    @abstractmethod
    def next(self, written: np.ndarray) -> tuple[np.ndarray, bool]:
        """The symbols that may follow those written so far [n], and whether the chunk may end here.

        Raises:
            Malformed: no chunk begins so.
        """

    def places(self) -> list[np.ndarray]:
        """The symbols that each place may have, whatever stands before it: at least those that `next` allows there."""
        return [np.arange(self.size)] * self.longest

    def ordinal(self) -> list[bool]:
        """At which places the symbols are rising values, near ones nearly the same: as many as `places` has."""
        return [False] * self.longest

    def check(self, actions: np.ndarray, terminate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both as arrays, constant dimensions at their constants; ContractMismatch for a wrong shape, NaN or infinity."""
        actions, terminate = self.space.check(actions, "the chunk to encode"), np.asarray(terminate, bool)
        if actions.shape != (self.chunk, self.space.size) or terminate.shape != (self.chunk,):
            raise ContractMismatch(
                f"a chunk of shape {actions.shape} with terminate {terminate.shape}, "
                f"expected ({self.chunk}, {self.space.size}) and ({self.chunk},)"
            )
        return np.where(self.varies, actions, self.constant), terminate
