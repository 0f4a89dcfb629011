"""What may be written: place by place, as a function of what was written, or in one block."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch

from vla.errors import UserError


@dataclasses.dataclass(frozen=True)
class Free:
    """A place of free text: any word, until a row has written `end`; from there on `end` up to the last such place.

    So a text has as many places as it may be long, and what comes after it keeps its position.
    """

    end: int


Words = Sequence[int] | torch.Tensor
Places = Sequence[Words | Free | None]
Follow = Callable[[np.ndarray], Sequence[int] | Free]
Allowed = Places | Follow | None
"""The words of each place, all of them where None, as many places as it is long; or a function from the ids that a row has
written [n] to those that may come next, none where its answer is whole; or None: all words everywhere."""


@dataclasses.dataclass(frozen=True)
class Block:
    """Places that are written at once, the last of an answer: blanks are fed in place of them, in one reading (parallel decoding,
    OpenVLA-OFT, Kim et al. 2025, section 4.1).

    A place is said by what stands before it: the first by the last token before the block, every other by the blank before it.
    So a block of N places is fed as N - 1 blanks.

    Attributes:
        words: [U] what may be written anywhere in it.
        legal: [N, U] bool, at which place.
        blank: the token that is fed.
        mutual: whether blanks see those behind them too, or only those before them, as words do.
    """

    words: torch.Tensor
    legal: torch.Tensor
    blank: int
    mutual: bool

    @classmethod
    def of(cls, places: Sequence[Sequence[int]], blank: int, mutual: bool) -> Block:
        words, legal = together(places)
        shared = torch.ones(len(places), len(words), dtype=torch.bool)
        return cls(words, shared if legal is None else legal, blank, mutual)

    def __len__(self) -> int:
        return len(self.legal)


def together(sets: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The words of several rows or places as one table [U], and which of them each has, [N, U] bool; None: all have the same."""
    if all(words == sets[0] for words in sets[1:]):
        return torch.tensor(sets[0], dtype=torch.long), None
    every = np.unique(np.concatenate([np.asarray(words, np.int64) for words in sets]))
    return torch.from_numpy(every), torch.from_numpy(np.stack([np.isin(every, words) for words in sets]))


def at(
    allowed: Allowed, step: int, written: Sequence[torch.Tensor], rows: int, eos_id: int | None
) -> tuple[torch.Tensor | None, torch.Tensor | None] | Free | None:
    """What each row may write at a step: words as `together` gives them (all of them where None), or free text; None where all
    answers are whole.

    Raises:
        UserError: as `following`.
    """
    if callable(allowed):
        return following(allowed, written, rows, eos_id)
    place = None if allowed is None else allowed[step]
    return place if isinstance(place, Free) else (None if place is None else torch.as_tensor(place), None)


def following(
    follow: Follow, written: Sequence[torch.Tensor], rows: int, eos_id: int | None
) -> tuple[torch.Tensor, torch.Tensor | None] | Free | None:
    """The same of a function.

    Raises:
        UserError: one is whole, another is not, and there is no token to fill up with; or one is free, another is not.
    """
    ids = torch.stack(list(written), 1).cpu().numpy() if written else np.empty((rows, 0), np.int64)
    found = [follow(row) for row in ids]
    if isinstance(found[0], Free) and all(words == found[0] for words in found):
        return found[0]
    if any(isinstance(words, Free) for words in found):
        raise UserError("one row may write free text, another may not", "decoding", "give free text the same places in all")
    sets = [list(words) for words in found]  # type: ignore[arg-type]
    if not any(sets):
        return None
    if eos_id is None and not all(sets):
        raise UserError("answers are of unequal length, and no token ends them", "decoding", "name eos_id")
    return together([words or [eos_id] for words in sets])  # type: ignore[list-item]
