"""What may be written: place by place, as a function of what was written, or in one block."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch

from vla.contract import Statistic
from vla.errors import UserError


@dataclasses.dataclass(frozen=True)
class Free:
    """A place of free text: any word, until a row has written `end`; from there on `end` up to the last such place.

    So a text has as many places as it may be long, and what comes after it keeps its position.
    """

    end: int


@dataclasses.dataclass(frozen=True, eq=False)
class Ordinal:
    """Words that stand for rising values. Greedy decoding writes a statistic of their distribution, not the likeliest of them.
    Sampling (a temperature above 0) is as anywhere.

    Attributes:
        words: [U] ids in the order of their values.
        statistic: see `vla.models.decoding.choose.ordinal_choice`.
    """

    words: torch.Tensor
    statistic: Statistic

    def to(self, device: torch.device) -> Ordinal:
        return Ordinal(self.words.to(device), self.statistic)


Words = Sequence[int] | torch.Tensor
Places = Sequence[Words | Ordinal | Free | None]


@dataclasses.dataclass(frozen=True)
class Follow:
    """Places of which a row may write what agrees with what it has written so far.

    Attributes:
        places: what any row may write at each place, as many as the longest answer has. All rows are scored on all of it, so that
            a row's answer does not depend on what the others may write.
        next: from the ids that a row has written [n] to those of its next place that may come, none where its answer is whole.
            Not asked at a place of free text.
    """

    places: Sequence[Words | Ordinal | Free]
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
        ordinal: [N] bool, at which places the words stand for rising values.
        statistic: of these, as for `Ordinal`.
    """

    words: torch.Tensor
    legal: torch.Tensor
    blank: int
    mutual: bool
    ordinal: torch.Tensor
    statistic: Statistic = "mode"

    @classmethod
    def of(cls, places: Sequence[Words | Ordinal], blank: int, mutual: bool) -> Block:
        """The block of these places. Ordinal ones have one statistic and one order of words.

        Raises:
            UserError: they have several.
        """
        ordinals = [place for place in places if isinstance(place, Ordinal)]
        rows = [torch.as_tensor(place.words if isinstance(place, Ordinal) else place).tolist() for place in places]
        # The longest ordinal place has the words of the others, in the order of their values.
        order = max((place.words.tolist() for place in ordinals), key=len, default=[])
        words = [*order, *sorted({word for row in rows for word in row} - set(order))]
        rank = {word: number for number, word in enumerate(words)}
        for place in ordinals:
            ranks = [rank[word] for word in place.words.tolist()]
            if place.statistic != ordinals[0].statistic or ranks != sorted(ranks) or ranks[-1] >= len(order):
                raise UserError("ordinal places of several orders or statistics", "a block", "give all of them the same")
        legal = torch.tensor([[word in row for word in words] for row in map(set, rows)])
        ordinal = torch.tensor([isinstance(place, Ordinal) for place in places])
        return cls(torch.tensor(words), legal, blank, mutual, ordinal, ordinals[0].statistic if ordinals else "mode")

    def __len__(self) -> int:
        return len(self.legal)


def check(allowed: Allowed, size: int) -> None:
    """That every place has words of a vocabulary of `size`.

    Raises:
        UserError: it has not, or `allowed` is something else.
    """
    if callable(allowed):
        raise UserError("a function alone does not say which words a place has", "decoding", "give Follow(places, function)")
    # Places share tables, which are looked at once.
    for place in {id(place): place for place in (allowed.places if isinstance(allowed, Follow) else allowed or ())}.values():
        ids = _ids(place)
        if ids is not None and (not ids.numel() or ids.min() < 0 or ids.max() >= size):
            said = f"ids from {int(ids.min())} to {int(ids.max())}" if ids.numel() else "no ids"
            raise UserError(f"a place allows {said}", "decoding", f"the model's ids are 0 to {size - 1}")


def _ids(place: Words | Ordinal | Free | None) -> torch.Tensor | None:
    """What may be written at a place, or ends its text; None: all words."""
    if isinstance(place, Free):
        return torch.tensor([place.end])
    return None if place is None else torch.as_tensor(place.words if isinstance(place, Ordinal) else place)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What each row may write at one place.

    Attributes:
        words: [U]; None: all words.
        legal: [rows, U] bool, which of them each row may write; None: all.
        statistic: of the words' distribution that is written.
        ordinal: [N] bool, the places of a block to which the statistic applies; the others take the mode. None: all places.
    """

    words: torch.Tensor | None = None
    legal: torch.Tensor | None = None
    statistic: Statistic = "mode"
    ordinal: torch.Tensor | None = None


def at(allowed: Allowed, step: int, written: Sequence[torch.Tensor], rows: int, eos_id: int | None) -> Choice | Free | None:
    """What each row may write at a step, or free text; None where all answers are whole.

    Raises:
        UserError: as `Follow.legal`.
    """
    if allowed is None:
        return Choice()
    place = (allowed.places if isinstance(allowed, Follow) else allowed)[step]
    if isinstance(place, Free):
        return place
    words, statistic = _ids(place), place.statistic if isinstance(place, Ordinal) else "mode"
    if words is None or not isinstance(allowed, Follow):
        return Choice(words, None, statistic)
    legal = allowed.legal(words, written, rows, eos_id)
    return None if legal is None else Choice(words, legal, statistic)
