"""One masked sequence: ids, what is scored, and who wrote each token. Action, question and any other loss is this mask."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from collections.abc import Sequence as ListLike
from enum import IntEnum

import numpy as np

from vla.errors import UserError


class Role(IntEnum):
    """Who wrote a token."""

    PROMPT = 0
    IMAGE = 1
    OBSERVATION = 2
    MODEL = 3
    TOOL = 4
    ABSENT = 5
    """Keeps the place of something that is not there: nobody sees it."""


# Looking a member up costs more than what is then done with it.
MODEL, ABSENT = int(Role.MODEL), int(Role.ABSENT)


@dataclasses.dataclass(frozen=True)
class Sequence:
    """Tokens of one sample.

    Attributes:
        ids: int64 [L].
        loss: bool [L], True where the token is scored: what the model is to write.
        roles: int8 [L], values of Role.
        branch: int8 [L], 0 in the trunk (the pictures), which sees itself alone; the prompts with their answers that branch off
            it are 1, 2, … and see the trunk and themselves. So one picture's pass through the model serves many questions.

    Raises:
        ValueError: they are not of one length, or a scored token is not the model's.
    """

    ids: np.ndarray
    loss: np.ndarray
    roles: np.ndarray
    branch: np.ndarray

    def __post_init__(self):
        # Made for every piece of every sample: the checks are the cheapest that say the same.
        if not (self.ids.shape == self.loss.shape == self.roles.shape == self.branch.shape == (self.ids.size,)):
            shapes = [a.shape for a in (self.ids, self.loss, self.roles, self.branch)]
            raise ValueError(f"ids, loss, roles and branch have the shapes {shapes}")
        if (self.roles[self.loss] != MODEL).any():
            raise ValueError("a token that the model does not write cannot be scored")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def prefix(self) -> int:
        """How many tokens stand before the model's first one: over these attention goes both ways."""
        written = np.flatnonzero(self.roles == MODEL)
        return int(written[0]) if len(written) else len(self)

    def __getitem__(self, part: slice | np.ndarray) -> Sequence:
        return Sequence(self.ids[part], self.loss[part], self.roles[part], self.branch[part])


def piece(ids: np.ndarray | ListLike[int], role: Role, loss: bool | np.ndarray | None = None) -> Sequence:
    """Ids of one role; scored where the model writes, unless `loss` (one bool or [L]) says otherwise."""
    ids = np.array(ids, np.int64).reshape(-1)
    role = int(role)  # type: ignore[assignment]
    count = len(ids)
    scored = np.full(count, role == MODEL if loss is None else loss, bool)
    return Sequence(ids, scored, np.full(count, role, np.int8), np.zeros(count, np.int8))


def concat(parts: Iterable[Sequence], branch: np.ndarray | None = None) -> Sequence:
    """The parts one after the other.

    Args:
        parts: sequences.
        branch: int8, the branch of each token; by default as the parts have it.
    """
    parts = list(parts) or [piece([], Role.PROMPT)]
    return Sequence(
        np.concatenate([p.ids for p in parts]),
        np.concatenate([p.loss for p in parts]),
        np.concatenate([p.roles for p in parts]),
        np.concatenate([p.branch for p in parts]) if branch is None else branch,
    )


def fork(trunk: Sequence, *branches: Iterable[Sequence]) -> Sequence:
    """The trunk with all branches off it, one after the other, each given in parts."""
    every = [[trunk], *map(list, branches)]
    lengths = [sum(map(len, parts)) for parts in every]
    return concat(itertools.chain(*every), np.repeat(np.arange(len(every), dtype=np.int8), lengths))


def collate(sequences: list[Sequence], pad_id: int, length: int | None = None) -> dict[str, np.ndarray]:
    """Pads on the right to the longest, or to `length` (a bucket).

    Returns:
        ids int64, loss bool, roles int8, branch int8, attention bool (True on tokens that are there), prefix bool (True before
        the model's first token of a branch), each [B, L].

    Raises:
        UserError: a sequence is longer than `length`.
    """
    longest = max(map(len, sequences), default=0)
    width = longest if length is None else length
    if longest > width:
        raise UserError(f"a sequence has {longest} tokens, the bucket {width}", "collate", "choose a longer bucket")
    shape = (len(sequences), width)
    batch = {
        "ids": np.full(shape, pad_id, np.int64),
        "loss": np.zeros(shape, bool),
        "roles": np.zeros(shape, np.int8),
        "branch": np.zeros(shape, np.int8),
        "attention": np.zeros(shape, bool),
        "prefix": np.zeros(shape, bool),
    }
    for row, sequence in enumerate(sequences):
        n = len(sequence)
        for name in ("ids", "loss", "roles", "branch"):
            batch[name][row, :n] = getattr(sequence, name)
        batch["attention"][row, :n] = sequence.roles != ABSENT
    # A branch's prefix ends where the model has written something since the branch began.
    inside = np.arange(width) < np.array([len(s) for s in sequences], int)[:, None]
    wrote = batch["roles"] == MODEL
    count = wrote.cumsum(1)
    begins = np.diff(batch["branch"], axis=1, prepend=-1) != 0
    before = np.maximum.accumulate(np.where(begins, count - wrote, 0), axis=1)
    batch["prefix"] = inside & (count == before)
    return batch
