"""The interface of action codecs: chunks of actions <-> symbols. Symbols are always integers and never pass through text."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from vla.errors import ContractMismatch, UserError
from vla.space import Space


class Malformed(UserError):
    """The symbols written are not a whole chunk. A policy reports this as a status and never makes up actions."""


class ActionCodec(ABC):
    """Chunks of T actions [T, A] in physical units <-> a row of symbols, integers from 0 to size - 1.

    `next` gives the symbols that may follow those written so far. For a `fixed` codec they depend on the position alone, and
    `positions` lists them.

    Attributes:
        space: names, limits and constants of the A dimensions.
        chunk: T.
        terminate: whether each action has a flag for the end of the task.
        size: number of symbols.
        spelling: text of each symbol, for tokenizers whose own words stand for symbols.
        numeric: whether a symbol means the number that it is spelled as, so that its embedding may start as the word's.
        fixed: whether all chunks have the same length, that of `positions`.
        longest: maximum number of symbols of a chunk.
    """

    size: int
    numeric = True
    fixed = False
    longest: int

    def __init__(self, space: Space, chunk: int, terminate: bool):
        self.space, self.chunk, self.terminate = space, chunk, terminate
        self.varies = np.array([c is None for c in space.constant], bool)

    @property
    def spelling(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.size)))

    @abstractmethod
    def encode(self, actions: np.ndarray, terminate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Actions [T, A] and their flags [T] -> symbols [N], and the step [N] of each (0 for a symbol of all steps).

        Raises:
            ContractMismatch: the shape differs from the contract's, or a value is NaN or infinite.
        """

    @abstractmethod
    def decode(self, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Symbols [N] -> actions [T, A], float64, and flags [T].

        Raises:
            Malformed: the symbols are not a whole chunk.
        """

    @abstractmethod
    def next(self, written: np.ndarray) -> tuple[np.ndarray, bool]:
        """The symbols that may follow those written so far [n], and whether the chunk may end here.

        Raises:
            Malformed: no chunk begins with them.
        """

    def positions(self) -> list[np.ndarray]:
        """The symbols that each position may have, whatever precedes it: a superset of those that `next` gives there."""
        return [np.arange(self.size)] * self.longest

    def ordinal(self) -> list[bool]:
        """For each entry of `positions`: whether its symbols are an ordered scale, where near symbols mean similar values."""
        return [False] * self.longest

    def check(self, actions: np.ndarray, terminate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both as arrays, with constant and binary dimensions at their values.

        Raises:
            ContractMismatch: a shape is wrong, or a value is NaN or infinite.
        """
        actions, terminate = self.space.check(actions, "the chunk to encode"), np.asarray(terminate, bool)
        if actions.shape != (self.chunk, self.space.size) or terminate.shape != (self.chunk,):
            raise ContractMismatch(
                f"a chunk of shape {actions.shape} with terminate {terminate.shape}, "
                f"expected ({self.chunk}, {self.space.size}) and ({self.chunk},)"
            )
        return self.space.settled(actions), terminate
