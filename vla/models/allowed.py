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


@dataclasses.dataclass(frozen=True)
class Follow:
    """Places of which a row may write what agrees with what it has written so far.

    Attributes:
        places: what any row may write at each place, as many as the longest answer has. All rows are scored on all of it, so that
            a row's answer does not depend on what the others may write.
        next: from the ids that a row has written [n] to those of its next place that may come, none where its answer is whole.
            Not asked at a place of free text.
    """

    places: Sequence[Words | Free]
    next: Callable[[np.ndarray], Sequence[int]]

    def legal(self, words: torch.Tensor, written: Sequence[torch.Tensor], rows: int, eos_id: int | None) -> torch.Tensor | None:
        """Which of a place's words [U] each row may write, [rows, U] bool; None where all answers are whole.

        Raises:
            UserError: one is whole, another is not, and there is no token to fill up with; or what may come is not of the place.
        """
        ids = torch.stack(list(written), 1).cpu().numpy() if written else np.empty((rows, 0), np.int64)
        sets, fill = [list(self.next(row)) for row in ids], [] if eos_id is None else [eos_id]
        if not any(sets):
            return None
        if not fill and not all(sets):
            raise UserError("answers are of unequal length, and no token ends them", "decoding", "name eos_id")
        legal = torch.from_numpy(np.stack([np.isin(words.cpu(), found or fill) for found in sets]))
        if legal.sum(1).tolist() != [len(set(found or fill)) for found in sets]:
            raise UserError("a row may write what its place does not have", "decoding", "name all words in `places`, the end too")
        return legal


Allowed = Places | Follow | None
"""The words of each place, all of them where None, as many places as it is long; the same with what may follow what; or None:
all words everywhere."""


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


def check(allowed: Allowed, size: int) -> None:
    """That every place has words of a vocabulary of `size`.

    Raises:
        UserError: it has not, or `allowed` is something else.
    """
    if callable(allowed):
        raise UserError("a function alone does not say which words a place has", "decoding", "give Follow(places, function)")
    # Places share tables, which are looked at once.
    for place in {id(place): place for place in (allowed.places if isinstance(allowed, Follow) else allowed or ())}.values():
        ids = torch.as_tensor([place.end] if isinstance(place, Free) else [0] if place is None else place)
        if not ids.numel() or ids.min() < 0 or ids.max() >= size:
            said = f"ids from {int(ids.min())} to {int(ids.max())}" if ids.numel() else "no ids"
            raise UserError(f"a place allows {said}", "decoding", f"the model's ids are 0 to {size - 1}")


def at(
    allowed: Allowed, step: int, written: Sequence[torch.Tensor], rows: int, eos_id: int | None
) -> tuple[torch.Tensor | None, torch.Tensor | None] | Free | None:
    """What each row may write at a step: words as `together` gives them (all of them where None), or free text; None where all
    answers are whole.

    Raises:
        UserError: as `Follow.legal`.
    """
    if allowed is None:
        return None, None
    place = (allowed.places if isinstance(allowed, Follow) else allowed)[step]
    if place is None or isinstance(place, Free):
        return place or (None, None)
    words = torch.as_tensor(place)
    if not isinstance(allowed, Follow):
        return words, None
    legal = allowed.legal(words, written, rows, eos_id)
    return None if legal is None else (words, legal)
