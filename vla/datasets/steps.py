"""The steps of a robot data set without their pictures: small enough to stay in memory, read in one pass."""

from __future__ import annotations

import dataclasses

import numpy as np

from vla.contract import ContractMismatch, Embodiment, Space
from vla.datasets.index import ShardIndex
from vla.datasets.shards import decode_array, decode_json
from vla.errors import UserError
from vla.transforms import Point

FIELDS = ("episode", "step", "length", "instruction", "terminate", "embodiment", "target")


@dataclasses.dataclass(frozen=True)
class Said:
    """What is said in words about a step, where the named object is in the first camera's picture and how far from the gripper."""

    instruction: str
    target: str
    embodiment: str
    point: Point | None
    reach: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True)
class Steps:
    """N steps, sorted by episode and step.

    Attributes:
        record: int [N], position in the index.
        episode, step: int [N].
        end: int [N], the row after the last one of the step's episode, or of its uninterrupted segment.
        action: float32 [N, A].
        state: float32 [N, S].
        terminate: bool [N].
        said: [N].
    """

    record: np.ndarray
    episode: np.ndarray
    step: np.ndarray
    end: np.ndarray
    action: np.ndarray
    state: np.ndarray
    terminate: np.ndarray
    said: list[Said]


def read_steps(index: ShardIndex, spec: Embodiment) -> Steps:
    """Reads every step's action, state and description.

    Raises:
        UserError: a member is missing, damaged, not finite or of another length than the card says, or an episode lacks steps;
            shard and key are named.
    """
    actions, states, infos = [], [], []
    for record in range(len(index)):
        members = index.read(record, ("action.npy", "state.npy", "json"))
        actions.append(_vector(members["action.npy"], spec.action, index.where(record, "action.npy")))
        states.append(_vector(members["state.npy"], spec.state, index.where(record, "state.npy")))
        info = decode_json(members["json"], index.where(record, "json"))
        missing = [field for field in FIELDS if field not in info]
        if missing:
            raise UserError(f"it lacks {', '.join(missing)}", index.where(record, "json"))
        infos.append(info)
    episode, step, length = (np.array([info[name] for info in infos], np.int64) for name in ("episode", "step", "length"))
    order = np.lexsort((step, episode))
    episode, step, length = episode[order], step[order], length[order]
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
    ordered = [infos[i] for i in order]
    # An episode may leave out steps between its segments: no chunk of actions reaches over such a gap.
    part = np.array([int(info.get("segment", 0)) for info in ordered])
    last = np.flatnonzero(np.append((episode[1:] != episode[:-1]) | (part[1:] != part[:-1]), True))
    ends = last[np.searchsorted(last, np.arange(len(part)))] + 1
    return Steps(
        record=order,
        episode=episode,
        step=step,
        end=ends,
        action=np.stack(actions)[order],
        state=np.stack(states)[order],
        terminate=np.array([bool(info["terminate"]) for info in ordered]),
        said=[Said(i["instruction"], i["target"], i["embodiment"], _point(i.get("point")), _reach(i.get("reach"))) for i in ordered],
    )


def _point(value: list[float] | None) -> Point | None:
    return (float(value[0]), float(value[1])) if value else None


def _reach(value: list[int] | None) -> tuple[int, ...] | None:
    return tuple(int(v) for v in value) if value else None


def _vector(data: bytes, space: Space, where: str) -> np.ndarray:
    value = decode_array(data, where)
    if value.ndim != 1:
        raise UserError(f"it has shape {value.shape}, not one vector", where)
    try:
        return space.check(value, "it").astype(np.float32)
    except ContractMismatch as error:
        raise UserError(error.what, where, "write the shard again") from error
