"""Token sequences with a loss mask and the role of each token. Actions, questions and all other losses use this mask."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from collections.abc import Sequence as ListLike
from enum import IntEnum

import numpy as np

from vla.errors import UserError


class Role(IntEnum):
    """The author of a token."""

    PROMPT = 0
    IMAGE = 1
    OBSERVATION = 2
    MODEL = 3
    TOOL = 4
    ABSENT = 5
    """The position of a missing image: no token attends to it."""


# Plain integers: the lookup of an enum member is slow.
MODEL, ABSENT = int(Role.MODEL), int(Role.ABSENT)


@dataclasses.dataclass(frozen=True)
class Sequence:
    """The tokens of one sample.

    Attributes:
        ids: int64 [L].
        loss: bool [L], True for scored tokens, which the model is to write.
        roles: int8 [L], values of Role.
        branch: int8 [L], 0 in the trunk (the images), which attends to itself alone. Prompts with their answers are branches
            1, 2, … and attend to the trunk and to themselves, so one pass of an image through the model serves many questions.

    Raises:
        ValueError: the lengths differ, or a scored token is not the model's.
    """

    ids: np.ndarray
    loss: np.ndarray
    roles: np.ndarray
    branch: np.ndarray

    def __post_init__(self):
        # This runs for every piece of every sample, so the checks are written for speed.
        if not (self.ids.shape == self.loss.shape == self.roles.shape == self.branch.shape == (self.ids.size,)):
            shapes = [a.shape for a in (self.ids, self.loss, self.roles, self.branch)]
            raise ValueError(f"ids, loss, roles and branch have the shapes {shapes}")
        if (self.roles[self.loss] != MODEL).any():
            raise ValueError("a token with another role than MODEL cannot be scored")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def prefix(self) -> int:
        """The number of tokens before the model's first; attention among them is bidirectional."""
        written = np.flatnonzero(self.roles == MODEL)
        return int(written[0]) if len(written) else len(self)

    def __getitem__(self, part: slice | np.ndarray) -> Sequence:
        return Sequence(self.ids[part], self.loss[part], self.roles[part], self.branch[part])


def piece(ids: np.ndarray | ListLike[int], role: Role, loss: bool | np.ndarray | None = None) -> Sequence:
    """A sequence of one role. It is scored if the role is MODEL, unless `loss` (a bool or [L]) says otherwise."""
    ids = np.array(ids, np.int64).reshape(-1)
    role = int(role)  # type: ignore[assignment]
    count = len(ids)
    scored = np.full(count, role == MODEL if loss is None else loss, bool)
    return Sequence(ids, scored, np.full(count, role, np.int8), np.zeros(count, np.int8))


def concat(parts: Iterable[Sequence], branch: np.ndarray | None = None) -> Sequence:
    """Concatenates sequences.

    Args:
        parts: the sequences.
        branch: int8 [L], the branch of each token; by default that of the parts.
    """
    parts = list(parts) or [piece([], Role.PROMPT)]
    return Sequence(
        np.concatenate([p.ids for p in parts]),
        np.concatenate([p.loss for p in parts]),
        np.concatenate([p.roles for p in parts]),
        np.concatenate([p.branch for p in parts]) if branch is None else branch,
    )


def fork(trunk: Sequence, *branches: Iterable[Sequence]) -> Sequence:
    """The trunk followed by its branches, each given in parts."""
    groups = [[trunk], *map(list, branches)]
    lengths = [sum(map(len, parts)) for parts in groups]
    return concat(itertools.chain(*groups), np.repeat(np.arange(len(groups), dtype=np.int8), lengths))


def collate(sequences: list[Sequence], pad_id: int, length: int | None = None) -> dict[str, np.ndarray]:
    """Pads sequences on the right to the longest, or to `length` (a bucket).

    Returns:
        ids int64, loss bool, roles int8, branch int8, attention bool (False for padding and ABSENT), prefix bool (True before
        the model's first token of a branch), each [B, L].

    Raises:
        UserError: a sequence is longer than `length`.
    """
    longest = max(map(len, sequences), default=0)
    width = longest if length is None else length
    if longest > width:
        raise UserError(f"a sequence has {longest} tokens, the bucket {width}", "collate", "use a longer bucket")
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
    # A token is in its branch's prefix if the model has written nothing since the branch began.
    inside = np.arange(width) < np.array([len(s) for s in sequences], int)[:, None]
    by_model = batch["roles"] == MODEL
    count = by_model.cumsum(1)
    starts = np.diff(batch["branch"], axis=1, prepend=-1) != 0
    before_branch = np.maximum.accumulate(np.where(starts, count - by_model, 0), axis=1)
    batch["prefix"] = inside & (count == before_branch)
    return batch
