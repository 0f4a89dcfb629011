"""The steps of a robot data set without their pictures: small enough to stay in memory, read in one pass and kept beside the shards."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from vla.contract import ContractMismatch, Embodiment, Space
from vla.datasets.index import Columns, ShardIndex
from vla.datasets.shards import decode_array, decode_json
from vla.errors import UserError
from vla.transforms import Point

FIELDS = ("episode", "step", "length", "instruction", "terminate", "embodiment", "target")
WORDS = ("instruction", "target", "embodiment")
REACH = 4


@dataclasses.dataclass(frozen=True)
class Steps:
    """N steps, sorted by episode and step.

    Attributes:
        record: int [N], position in the index.
        episode, step: int [N].
        start, end: int [N], the first row of the step's uninterrupted segment of an episode, and the row after its last one.
        action: float32 [N, A].
        state: float32 [N, S].
        terminate: bool [N].
        point: float32 [N, 2], where the named object is in the first camera's picture; NaN where that is not said.
        reach: int16 [N, 4], how far it is from the gripper; -1 where that is not said.
        words: [W] what is said; instruction, target and embodiment are int32 [N] places in it.
    """

    record: np.ndarray
    episode: np.ndarray
    step: np.ndarray
    start: np.ndarray
    end: np.ndarray
    action: np.ndarray
    state: np.ndarray
    terminate: np.ndarray
    point: np.ndarray
    reach: np.ndarray
    instruction: np.ndarray
    target: np.ndarray
    embodiment: np.ndarray
    words: np.ndarray

    def said(self, row: int) -> dict[str, Any]:
        """Instruction, target, embodiment, point and reach of a step; the last two are None where they are not said."""
        point, reach = self.point[row].tolist(), self.reach[row].tolist()
        where: dict[str, Point | tuple[int, ...] | None] = {
            "point": None if np.isnan(point[0]) else (point[0], point[1]),
            "reach": None if reach[0] < 0 else tuple(reach),
        }
        return {name: str(self.words[getattr(self, name)[row]]) for name in WORDS} | where


def load_steps(index: ShardIndex, spec: Embodiment) -> Steps:
    """Every step's action, state and description, read at first and taken from the file beside the shards from then on.

    Raises:
        UserError: a member is missing, damaged, not finite or of another length than the card says, or an episode lacks steps;
            shard and key are named.
    """
    steps = Steps(**index.columns("steps", lambda: _read(index, spec)))
    # The card may have changed since.
    for space, values in ((spec.action, steps.action), (spec.state, steps.state)):
        if values.shape[1] != space.size:
            raise UserError(f"steps of {values.shape[1]} values, the card has {space.size}", str(index.folder))
    return steps


def _read(index: ShardIndex, spec: Embodiment) -> Columns:
    actions, states, infos = [], [], []
    words: dict[str, int] = {}
    for record in range(len(index)):
        members = index.read(record, ("action.npy", "state.npy", "json"))
        actions.append(_vector(members["action.npy"], spec.action, index.where(record, "action.npy")))
        states.append(_vector(members["state.npy"], spec.state, index.where(record, "state.npy")))
        info = decode_json(members["json"], index.where(record, "json"))
        missing = [field for field in FIELDS if field not in info]
        if missing:
            raise UserError(f"it lacks {', '.join(missing)}", index.where(record, "json"))
        row = [words.setdefault(info[name], len(words)) for name in WORDS]
        place = [*(info.get("point") or (np.nan, np.nan)), *(info.get("reach") or [-1] * REACH)]
        numbers = [int(info[name]) for name in ("episode", "step", "length", "terminate")] + [int(info.get("segment", 0))]
        if len(place) != 2 + REACH:
            raise UserError("point has two numbers and reach four", index.where(record, "json"))
        infos.append([*numbers, *row, *place])
    table = np.array(infos, np.float64).reshape(len(infos), -1)
    order = np.lexsort((table[:, 1], table[:, 0]))
    table = table[order]
    episode, step, length, terminate, segment, *said = table[:, :8].astype(np.int64).T
    starts = np.searchsorted(episode, episode)
    ends = np.searchsorted(episode, episode, side="right")
    wrong = np.flatnonzero((step != np.arange(len(step)) - starts) | (length != ends - starts))
    if len(wrong):
        row = wrong[0]
        raise UserError(
            f"episode {episode[row]} has {ends[row] - starts[row]} samples, not the steps 0 to {length[row] - 1}",
            index.where(int(order[row])),
            "a shard is missing, or two data sets were mixed: write the folder again",
        )
    # An episode may leave out steps between its segments: no chunk of actions reaches over such a gap.
    rows = np.arange(len(episode))
    last = np.flatnonzero(np.append((episode[1:] != episode[:-1]) | (segment[1:] != segment[:-1]), True))
    part = np.searchsorted(last, rows)
    return {
        "record": order,
        "episode": episode,
        "step": step,
        "start": np.append(0, last[:-1] + 1)[part],
        "end": last[part] + 1,
        "action": np.stack(actions)[order],
        "state": np.stack(states)[order],
        "terminate": terminate.astype(bool),
        "point": table[:, 8:10].astype(np.float32),
        "reach": table[:, 10:].astype(np.int16),
        **{name: column.astype(np.int32) for name, column in zip(WORDS, said, strict=True)},
        "words": np.array(list(words), np.str_),
    }


def _vector(data: bytes, space: Space, where: str) -> np.ndarray:
    value = decode_array(data, where)
    if value.ndim != 1:
        raise UserError(f"it has shape {value.shape}, not one vector", where)
    try:
        return space.check(value, "it").astype(np.float32)
    except ContractMismatch as error:
        raise UserError(error.what, where, "write the shard again") from error
