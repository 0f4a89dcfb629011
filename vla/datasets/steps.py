"""The steps of a robot data set without images. They fit in memory; they are read in one pass and cached beside the shards."""

from __future__ import annotations

import dataclasses
from typing import Any, TypedDict

import numpy as np

from vla.contract import ContractMismatch, Embodiment
from vla.datasets.index import Columns, ShardIndex
from vla.datasets.shards import decode_array, decode_json
from vla.datasets.sources import read_all
from vla.errors import Unreadable, UserError
from vla.space import Space
from vla.transforms import Point

FIELDS = ("episode", "step", "length", "instruction", "terminate", "embodiment", "target")
WORDS = ("instruction", "target", "embodiment", "actor")
OFFSET = 4
"""Integers of an offset (`reach` in the data): x, y, z and the turn."""


class StepDescription(TypedDict):
    """What a record says of its step; `point` and `offset` are None where it does not have them."""

    instruction: str
    target: str
    embodiment: str
    point: Point | None
    offset: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True)
class Steps:
    """N steps, sorted by episode and step. The fields are the columns of the cache file.

    Attributes:
        record: int [N], position in the index.
        episode, step: int [N].
        start, end: int [N], the first row of the step's uninterrupted segment of an episode, and the row after its last.
        action: float32 [N, A].
        state: float32 [N, S].
        terminate: bool [N].
        point: float32 [N, 2], position of the target in the first camera's image; NaN where it is missing.
        reach: int16 [N, 4], offset of the target from the gripper; -1 where it is missing.
        words: str [W], the different texts; instruction, target, embodiment and actor are int32 [N] positions in it. The actor
            is who acted: "expert", "policy", "person" …; "" where the data do not say.
        unreadable: int [U], positions in the index of unreadable records; `why` is str [U].
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
    actor: np.ndarray
    words: np.ndarray
    unreadable: np.ndarray
    why: np.ndarray

    def description(self, row: int) -> StepDescription:
        """Instruction, target, embodiment, point and offset of a step."""
        point, offset = self.point[row].tolist(), self.reach[row].tolist()
        return {
            "instruction": str(self.words[self.instruction[row]]),
            "target": str(self.words[self.target[row]]),
            "embodiment": str(self.words[self.embodiment[row]]),
            "point": None if np.isnan(point[0]) else (point[0], point[1]),
            "offset": None if offset[0] < 0 else tuple(offset),
        }


def load_steps(index: ShardIndex, spec: Embodiment) -> Steps:
    """Reads action, state and description of every step, from the cache file if it is up to date.

    Raises:
        UserError: an episode lacks steps that are not unreadable; shard and key are named.
        Unreadable: no record has all its members, whole, finite and of the card's size.
    """
    steps = Steps(**index.columns("steps", lambda: _read(index, spec)))
    # The card may have changed after the cache file was written.
    for space, values in ((spec.action, steps.action), (spec.state, steps.state)):
        if values.shape[1] != space.size:
            raise UserError(f"steps have {values.shape[1]} values, the card has {space.size}", str(index.folder))
    return steps


def _read(index: ShardIndex, spec: Embodiment) -> Columns:
    words: dict[str, int] = {}

    def read_record(number: int) -> tuple[np.ndarray, np.ndarray, list[float]]:
        members = index.read(number, ("action.npy", "state.npy", "json"))
        action = _vector(members["action.npy"], spec.action, index.where(number, "action.npy"))
        state = _vector(members["state.npy"], spec.state, index.where(number, "state.npy"))
        return (
            action,
            state,
            _numbers(decode_json(members["json"], index.where(number, "json")), words, index.where(number, "json")),
        )

    members, left_out = read_all(len(index), read_record)
    actions, states, infos = zip(*members.values(), strict=True)
    table = np.array(infos, np.float64).reshape(len(infos), -1)
    order = np.lexsort((table[:, 1], table[:, 0]))
    table, records = table[order], np.array(list(members))[order]
    episode, step, length, terminate, segment, *texts = table[:, : 5 + len(WORDS)].astype(np.int64).T
    starts = np.searchsorted(episode, episode)
    ends = np.searchsorted(episode, episode, side="right")
    rows = np.arange(len(episode))
    lost = length - (ends - starts)
    wrong = (step < 0) | (step >= length) | (length != length[starts]) | ((rows > starts) & (step == np.roll(step, 1)))
    # Only unreadable records may be missing.
    if lost[np.unique(starts)].sum() > len(left_out["unreadable"]):
        wrong |= lost > 0
    if wrong.any():
        row = np.flatnonzero(wrong)[0]
        raise UserError(
            f"episode {episode[row]} has {ends[row] - starts[row]} samples, not the steps 0 to {length[row] - 1}",
            index.where(int(records[row])),
            "a shard is missing, or two data sets were mixed: write the folder again",
        )
    # An episode may lack steps between its segments. No chunk of actions extends over such a gap.
    gap = (episode[1:] != episode[:-1]) | (segment[1:] != segment[:-1]) | (step[1:] != step[:-1] + 1)
    last = np.flatnonzero(np.append(gap, True))
    part = np.searchsorted(last, rows)
    return {
        "record": records,
        "episode": episode,
        "step": step,
        "start": np.append(0, last[:-1] + 1)[part],
        "end": last[part] + 1,
        "action": np.stack(actions)[order],
        "state": np.stack(states)[order],
        "terminate": terminate.astype(bool),
        "point": table[:, -2 - OFFSET : -OFFSET].astype(np.float32),
        "reach": table[:, -OFFSET:].astype(np.int16),
        **{name: column.astype(np.int32) for name, column in zip(WORDS, texts, strict=True)},
        "words": np.array(list(words), np.str_),
        **left_out,
    }


def _numbers(info: dict[str, Any], words: dict[str, int], where: str) -> list[float]:
    """A record's description: episode, step, length, terminate, segment, positions in `words`, point and offset."""
    missing = [field for field in FIELDS if field not in info]
    if missing:
        raise Unreadable(f"it lacks {', '.join(missing)}", where)
    try:
        geometry = [float(x) for x in (*(info.get("point") or (np.nan, np.nan)), *(info.get("reach") or [-1] * OFFSET))]
        numbers = [int(info[name]) for name in ("episode", "step", "length", "terminate")] + [int(info.get("segment", 0))]
    except (TypeError, ValueError) as error:
        raise Unreadable(f"not a number: {error}", where) from error
    if len(geometry) != 2 + OFFSET:
        raise Unreadable("point must have two numbers and reach four", where)
    return [*numbers, *(words.setdefault(str(info.get(name, "")), len(words)) for name in WORDS), *geometry]


def _vector(data: bytes, space: Space, where: str) -> np.ndarray:
    value = decode_array(data, where)
    if value.ndim != 1:
        raise Unreadable(f"it has shape {value.shape}, expected a vector", where)
    try:
        return space.check(value, "it").astype(np.float32)
    except ContractMismatch as error:
        raise Unreadable(error.what, where, "write the shard again") from error
