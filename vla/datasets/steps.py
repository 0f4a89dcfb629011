"""The steps of a robot data set without their pictures: small enough for memory, read in one pass and kept beside the shards."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from vla.contract import ContractMismatch, Embodiment, Space
from vla.datasets.index import Columns, ShardIndex
from vla.datasets.shards import decode_array, decode_json
from vla.datasets.sources import read_all
from vla.errors import Unreadable, UserError
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
        unreadable: int [U], positions in the index of records that are left out, and `why` str [U].
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
    unreadable: np.ndarray
    why: np.ndarray

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
        UserError: an episode lacks steps, and not because they cannot be read; shard and key are named.
        Unreadable: of no record all members are there, whole, finite and of the length that the card says.
    """
    steps = Steps(**index.columns("steps", lambda: _read(index, spec)))
    # The card may have changed since.
    for space, values in ((spec.action, steps.action), (spec.state, steps.state)):
        if values.shape[1] != space.size:
            raise UserError(f"steps of {values.shape[1]} values, the card has {space.size}", str(index.folder))
    return steps


def _read(index: ShardIndex, spec: Embodiment) -> Columns:
    words: dict[str, int] = {}

    def record(number: int) -> tuple[np.ndarray, np.ndarray, list[float]]:
        members = index.read(number, ("action.npy", "state.npy", "json"))
        action = _vector(members["action.npy"], spec.action, index.where(number, "action.npy"))
        state = _vector(members["state.npy"], spec.state, index.where(number, "state.npy"))
        return (
            action,
            state,
            _numbers(decode_json(members["json"], index.where(number, "json")), words, index.where(number, "json")),
        )

    found, left_out = read_all(len(index), record)
    actions, states, infos = zip(*found.values(), strict=True)
    table = np.array(infos, np.float64).reshape(len(infos), -1)
    order = np.lexsort((table[:, 1], table[:, 0]))
    table, records = table[order], np.array(list(found))[order]
    episode, step, length, terminate, segment, *said = table[:, :8].astype(np.int64).T
    starts = np.searchsorted(episode, episode)
    ends = np.searchsorted(episode, episode, side="right")
    rows = np.arange(len(episode))
    lost = length - (ends - starts)
    wrong = (step < 0) | (step >= length) | (length != length[starts]) | ((rows > starts) & (step == np.roll(step, 1)))
    # What cannot be read may be missing, but no more.
    if lost[np.unique(starts)].sum() > len(left_out["unreadable"]):
        wrong |= lost > 0
    if wrong.any():
        row = np.flatnonzero(wrong)[0]
        raise UserError(
            f"episode {episode[row]} has {ends[row] - starts[row]} samples, not the steps 0 to {length[row] - 1}",
            index.where(int(records[row])),
            "a shard is missing, or two data sets were mixed: write the folder again",
        )
    # An episode may leave out steps between its segments: no chunk of actions reaches over such a gap.
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
        "point": table[:, 8:10].astype(np.float32),
        "reach": table[:, 10:].astype(np.int16),
        **{name: column.astype(np.int32) for name, column in zip(WORDS, said, strict=True)},
        "words": np.array(list(words), np.str_),
        **left_out,
    }


def _numbers(info: dict[str, Any], words: dict[str, int], where: str) -> list[float]:
    """A record's description: episode, step, length, terminate, segment, places in `words`, point and reach."""
    missing = [field for field in FIELDS if field not in info]
    if missing:
        raise Unreadable(f"it lacks {', '.join(missing)}", where)
    try:
        place = [float(x) for x in (*(info.get("point") or (np.nan, np.nan)), *(info.get("reach") or [-1] * REACH))]
        numbers = [int(info[name]) for name in ("episode", "step", "length", "terminate")] + [int(info.get("segment", 0))]
    except (TypeError, ValueError) as error:
        raise Unreadable(f"not a number: {error}", where) from error
    if len(place) != 2 + REACH:
        raise Unreadable("point has two numbers and reach four", where)
    return [*numbers, *(words.setdefault(str(info[name]), len(words)) for name in WORDS), *place]


def _vector(data: bytes, space: Space, where: str) -> np.ndarray:
    value = decode_array(data, where)
    if value.ndim != 1:
        raise Unreadable(f"it has shape {value.shape}, not one vector", where)
    try:
        return space.check(value, "it").astype(np.float32)
    except ContractMismatch as error:
        raise Unreadable(error.what, where, "write the shard again") from error
