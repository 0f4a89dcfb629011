"""One masked sequence: ids, what is scored, and who wrote each token. Action, question and any other loss is this mask."""

from __future__ import annotations

import dataclasses
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
        shapes = [a.shape for a in (self.ids, self.loss, self.roles, self.branch)]
        if self.ids.ndim != 1 or len(set(shapes)) > 1:
            raise ValueError(f"ids, loss, roles and branch have the shapes {shapes}")
        if (self.loss & (self.roles != Role.MODEL)).any():
            raise ValueError("a token that the model does not write cannot be scored")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def prefix(self) -> int:
        """How many tokens stand before the model's first one: over these attention goes both ways."""
        written = np.flatnonzero(self.roles == Role.MODEL)
        return int(written[0]) if len(written) else len(self)

    def __getitem__(self, part: slice | np.ndarray) -> Sequence:
        return Sequence(self.ids[part], self.loss[part], self.roles[part], self.branch[part])


def piece(ids: np.ndarray | ListLike[int], role: Role, loss: bool | np.ndarray | None = None) -> Sequence:
    """Ids of one role; scored where the model writes, unless `loss` (one bool or [L]) says otherwise."""
    ids = np.array(ids, np.int64).reshape(-1)
    scored = role == Role.MODEL if loss is None else loss
    loss = np.broadcast_to(np.asarray(scored, bool), ids.shape).copy()
    return Sequence(ids, loss, np.full(ids.shape, role, np.int8), np.zeros(ids.shape, np.int8))


def concat(parts: Iterable[Sequence]) -> Sequence:
    """The parts one after the other."""
    parts = [piece([], Role.PROMPT), *parts]
    return Sequence(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("ids", "loss", "roles", "branch")))


def fork(trunk: Sequence, *branches: Sequence) -> Sequence:
    """The trunk with all branches off it, one after the other."""
    numbered = [dataclasses.replace(b, branch=np.full(len(b), n, np.int8)) for n, b in enumerate(branches, 1)]
    return concat([trunk, *numbered])


def collate(sequences: list[Sequence], pad_id: int, length: int | None = None) -> dict[str, np.ndarray]:
    """Pads on the right to the longest, or to `length` (a bucket).

    Returns:
        ids int64, loss bool, roles int8, branch int8, attention bool (True on real tokens), prefix bool (True before the
        model's first token of a branch), each [B, L].

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
        batch["attention"][row, :n] = True
        for number in np.unique(sequence.branch):
            places = np.flatnonzero(sequence.branch == number)
            batch["prefix"][row, places[: sequence[places].prefix]] = True
    return batch
