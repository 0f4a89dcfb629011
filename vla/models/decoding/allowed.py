"""Which tokens an answer may consist of: a list per position, a function of the tokens so far, or one block."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch

from vla.contract import Statistic
from vla.errors import UserError


@dataclasses.dataclass(frozen=True)
class Free:
    """A position of free text. Any token may be written until `end`; the remaining free positions are filled with `end`.

    So a text always takes its maximal length, and what follows it has fixed positions.
    """

    end: int


@dataclasses.dataclass(frozen=True, eq=False)
class Ordinal:
    """Words with rising values. Greedy decoding writes a statistic of their distribution. Sampling is not affected.

    Attributes:
        words: [U] ids, in the order of their values.
        statistic: see `vla.models.decoding.choose.ordinal_choice`.
    """

    words: torch.Tensor
    statistic: Statistic

    def to(self, device: torch.device) -> Ordinal:
        """Returns a copy on a device."""
        return Ordinal(self.words.to(device), self.statistic)


Words = Sequence[int] | torch.Tensor
Positions = Sequence[Words | Ordinal | Free | None]


@dataclasses.dataclass(frozen=True)
class Follow:
    """Positions where the legal words of a row depend on what it has written so far.

    Attributes:
        positions: the words of each position that any row may write, as many positions as the longest answer has. Logits are
            computed for all of these words, so a row's answer does not depend on what other rows may write.
        next: maps the ids [n] that a row has written to the legal ids of the next position; none if the answer is complete. Not
            called at positions of free text.
    """

    positions: Sequence[Words | Ordinal | Free]
    next: Callable[[np.ndarray], Sequence[int]]

    def legal(self, words: torch.Tensor, written: Sequence[torch.Tensor], rows: int, eos_id: int | None) -> torch.Tensor | None:
        """Returns which of a position's words [U] each row may write, [rows, U] bool; None if all answers are complete.

        Raises:
            UserError: only some answers are complete and there is no `eos_id` to fill them with, or `next` gives an id that is
                not among the position's words.
        """
        ids = torch.stack(list(written), 1).cpu().numpy() if written else np.empty((rows, 0), np.int64)
        legal_ids, fill = [list(self.next(row)) for row in ids], [] if eos_id is None else [eos_id]
        if not any(legal_ids):
            return None
        if not fill and not all(legal_ids):
            raise UserError("answers have unequal length and no end token", "decoding", "give eos_id")
        legal = torch.from_numpy(np.stack([np.isin(words.cpu(), row or fill) for row in legal_ids]))
        if legal.sum(1).tolist() != [len(set(row or fill)) for row in legal_ids]:
            fix = "name all words in `positions`, the end token too"
            raise UserError("`Follow.next` gives a word that its position does not have", "decoding", fix)
        return legal


Allowed = Positions | Follow | None
"""Words per position of an answer, None for all words; a `Follow`; or None for all words at all positions."""


@dataclasses.dataclass(frozen=True)
class Block:
    """The last positions of an answer, written at once: the model reads blanks in their place in a single call (parallel
    decoding, OpenVLA-OFT, Kim et al. 2025, section 4.1).

    The first position is predicted from the last token before the block, each other one from the blank before it. So a block of N
    positions is fed as N - 1 blanks.

    Attributes:
        words: [U] ids that may be written at some position.
        legal: [N, U] bool, whether a word may be written at a position.
        blank: id of the blank token.
        mutual: whether blanks attend to all blanks, or only to earlier ones.
        ordinal: [N] bool, positions whose words have rising values.
        statistic: the statistic of ordinal positions, as for `Ordinal`.
    """

    words: torch.Tensor
    legal: torch.Tensor
    blank: int
    mutual: bool
    ordinal: torch.Tensor
    statistic: Statistic = "mode"

    @classmethod
    def of(cls, positions: Sequence[Words | Ordinal], blank: int, mutual: bool) -> Block:
        """Makes the block of these positions. All ordinal ones must share one statistic and one order of words.

        Raises:
            UserError: they do not.
        """
        ordinals = [position for position in positions if isinstance(position, Ordinal)]
        rows = [torch.as_tensor(position.words if isinstance(position, Ordinal) else position).tolist() for position in positions]
        # The longest ordinal position contains the words of the others, in the order of their values.
        order = max((position.words.tolist() for position in ordinals), key=len, default=[])
        words = [*order, *sorted({word for row in rows for word in row} - set(order))]
        rank = {word: number for number, word in enumerate(words)}
        for position in ordinals:
            ranks = [rank[word] for word in position.words.tolist()]
            if position.statistic != ordinals[0].statistic or ranks != sorted(ranks) or ranks[-1] >= len(order):
                raise UserError("ordinal positions of several orders or statistics", "block", "use one order and one statistic")
        legal = torch.tensor([[word in row for word in words] for row in map(set, rows)])
        ordinal = torch.tensor([isinstance(position, Ordinal) for position in positions])
        return cls(torch.tensor(words), legal, blank, mutual, ordinal, ordinals[0].statistic if ordinals else "mode")

    def __len__(self) -> int:
        return len(self.legal)


def check(allowed: Allowed, size: int) -> None:
    """Checks that every position has words, all within a vocabulary of `size`.

    Raises:
        UserError: a position does not, or `allowed` is a bare function.
    """
    if callable(allowed):
        raise UserError("a function alone does not give the words of a position", "decoding", "use Follow(positions, function)")
    positions = allowed.positions if isinstance(allowed, Follow) else allowed or ()
    # Positions share lists of words, and each list is checked once.
    for position in {id(position): position for position in positions}.values():
        ids = _ids(position)
        if ids is not None and (not ids.numel() or ids.min() < 0 or ids.max() >= size):
            wrong = f"ids from {int(ids.min())} to {int(ids.max())}" if ids.numel() else "no ids"
            raise UserError(f"a position allows {wrong}", "decoding", f"the model's ids are 0 to {size - 1}")


def _ids(position: Words | Ordinal | Free | None) -> torch.Tensor | None:
    """Returns the words of a position, of free text the end token; None: all words."""
    if isinstance(position, Free):
        return torch.tensor([position.end])
    return None if position is None else torch.as_tensor(position.words if isinstance(position, Ordinal) else position)


@dataclasses.dataclass(frozen=True)
class Choice:
    """The words that each row may write at one position, and how one is chosen.

    Attributes:
        words: [U]; None: all words.
        legal: [rows, U] bool, the words that each row may write; None: all.
        statistic: the statistic of the words' distribution that greedy decoding writes.
        ordinal: [N] bool, positions of a block to which the statistic applies; the mode is used at others. None: all.
    """

    words: torch.Tensor | None = None
    legal: torch.Tensor | None = None
    statistic: Statistic = "mode"
    ordinal: torch.Tensor | None = None


def at(allowed: Allowed, step: int, written: Sequence[torch.Tensor], rows: int, eos_id: int | None) -> Choice | Free | None:
    """Returns what each row may write at a step, `Free` for free text, and None if all answers are complete.

    Raises:
        UserError: as `Follow.legal`.
    """
    if allowed is None:
        return Choice()
    position = (allowed.positions if isinstance(allowed, Follow) else allowed)[step]
    if isinstance(position, Free):
        return position
    words, statistic = _ids(position), position.statistic if isinstance(position, Ordinal) else "mode"
    if words is None or not isinstance(allowed, Follow):
        return Choice(words, None, statistic)
    legal = allowed.legal(words, written, rows, eos_id)
    return None if legal is None else Choice(words, legal, statistic)
