"""Prepares an episode of any format for training, by a source card. Steps that are left out are counted."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from vla.datasets.formats.conventions import operations
from vla.datasets.formats.conventions.rate import first_steps, merge, rotations_of
from vla.datasets.formats.conventions.source_card import Part, SourceCard
from vla.datasets.formats.readers.base import Frames, Raw
from vla.datasets.formats.readers.frames import fields_of, found, frames_of, text_keys
from vla.errors import UserError

STILL = 1e-4
"""A movement below this, in the data's units, counts as no movement (OpenVLA's filter of LIBERO)."""
NO_INSTRUCTION, NO_MOVEMENT, NO_STEPS = "no instruction", "all steps are no-ops", "no step is left"
"""Reasons to leave out a record."""
Texts = str | list[str] | list[bytes] | np.ndarray | None


class Dropped(Exception):
    """An intact record is left out, for the reason in the message."""


@dataclasses.dataclass(frozen=True)
class Changes:
    """Changes to all episodes.

    Attributes:
        noops: whether to leave out steps without movement.
        rate: actions per second of the result; 0 keeps the rate of the data.
        text: instruction for data without one.
    """

    noops: bool = False
    rate: float = 0.0
    text: str = ""


@dataclasses.dataclass
class PreparedEpisode:
    """An episode of T steps, ready to be written.

    Attributes:
        action, state: float32 [T, A] and [T, S].
        instruction: T texts.
        terminate: bool [T], True where the task is done.
        images: camera -> its frames, and the numbers [T] of the steps' frames.
        extra: further values of each step in our own shards (target, segment, point, reach, actor).
        dropped: reason -> number of steps left out.
    """

    action: np.ndarray
    state: np.ndarray
    instruction: list[str]
    terminate: np.ndarray
    images: dict[str, tuple[Frames, np.ndarray]]
    extra: list[dict[str, Any]]
    dropped: collections.Counter[str]

    def __len__(self) -> int:
        return len(self.action)


def prepare(raw: Raw, card: SourceCard, changes: Changes, where: str) -> PreparedEpisode:
    """Collects state, action and images by the card's keys, and applies its operations and the changes.

    Raises:
        UserError: a key is missing (of an instruction: while there are other texts), lengths differ, or a value is not finite;
            the record is named.
        Dropped: the episode has no instruction, no movement, or no step is left.
    """
    action = gather(raw, card.action, where, "action")
    length = len(action)
    state = gather(raw, card.state, where, "state") if card.state else np.zeros((length, 0))
    images = {name: frames_of(_get(raw, camera.key, where), camera.key, where) for name, camera in card.cameras.items()}
    for name, count in {"state": len(state), **{f"camera {k}": len(v) for k, v in images.items()}}.items():
        if count != length:
            raise UserError(f"{length} actions, but {count} of {name}", where)
    instruction = _instruction(raw, card, changes.text, length, where)
    action_rows, observation_rows, dropped = _pair(card, length)
    action, state = action[action_rows], state[observation_rows]
    _check_finite(action, card.action, action_rows, where)
    _check_finite(state, card.state, observation_rows, where)
    terminate, extra = _terminate(raw, length, action_rows), _extra(raw, length)
    if card.intervention:
        by_person = _interventions(raw, card.intervention, length, where)
        extra = [{**values, "actor": "person" if person else "policy"} for values, person in zip(extra, by_person, strict=True)]
    if changes.noops:
        moving = ~still(action, card)
        dropped["no-op"] += int((~moving).sum())
        # An episode may end in steps without movement: its end moves to the last step that is kept.
        terminate = np.array([terminate[a:b].any() for a, b in _groups(np.flatnonzero(moving), len(terminate))], bool)
        action, state, observation_rows = action[moving], state[moving], observation_rows[moving]
    if changes.rate and changes.rate != card.control_hz:
        starts = first_steps(len(action), card.control_hz, changes.rate, where)
        groups = _groups(starts, len(action))
        dropped["rate"] += len(action) - len(starts)
        terminate = np.array([terminate[a:b].any() for a, b in groups], bool)
        action = np.array([merge(action[a:b], card) for a, b in groups]).reshape(len(groups), action.shape[1])
        state, observation_rows = state[starts], observation_rows[starts]
    if not len(action):
        raise Dropped(NO_MOVEMENT if dropped["no-op"] else NO_STEPS)
    return PreparedEpisode(
        action=action.astype(np.float32),
        state=state.astype(np.float32),
        instruction=[instruction[row] for row in observation_rows],
        terminate=terminate,
        images={name: (frames, observation_rows) for name, frames in images.items()},
        extra=_apart([extra[row] for row in observation_rows]),
        dropped=+dropped,
    )


def gather(raw: Raw, parts: Sequence[Part], where: str, space: str) -> np.ndarray:
    """The values of all parts side by side, float64 [T, D]."""
    columns: list[np.ndarray] = []
    for part in parts:
        if part.key:
            columns.append(values_of(raw, part, f"{where}, {part.key}"))
    lengths = {len(column) for column in columns}
    if len(lengths) != 1:
        problem = f"its parts have {sorted(lengths)} steps" if lengths else "the card names no values"
        raise UserError(problem, f"{where}, {space}")
    length, from_data = lengths.pop(), iter(columns)
    blocks = [next(from_data) if part.key else np.full((length, len(part.names)), float(part.constant or 0)) for part in parts]
    return np.concatenate(blocks, 1)


def values_of(raw: Raw, part: Part, where: str) -> np.ndarray:
    """The values [T, D] of a part after its operations; UserError if its key, its picks or its names do not fit the record."""
    value = _get(raw, part.key, where)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub" or not value.ndim:
        raise UserError(f"it holds {found(value)}, no numbers for each step", where, "name another key in the card")
    values = value.reshape(len(value), math.prod(value.shape[1:])).astype(np.float64)
    if part.pick:
        if not -values.shape[1] <= min(part.pick) <= max(part.pick) < values.shape[1]:
            raise UserError(f"it has {values.shape[1]} values, the card picks {list(part.pick)}", where)
        values = values[:, list(part.pick)]
    for name, arguments in part.operations():
        values = operations.OPERATIONS[name](values, **arguments)
    if values.shape[1] != len(part.names):
        raise UserError(f"it has {values.shape[1]} values for {len(part.names)} names: {', '.join(part.names)}", where)
    return values


def _get(raw: Raw, key: str, where: str) -> Any:
    if key not in raw:
        raise UserError(f"there is no {key}, only {', '.join(sorted(raw))}", where, "name another key in the card")
    return raw[key]


def _pair(card: SourceCard, length: int) -> tuple[np.ndarray, np.ndarray, collections.Counter[str]]:
    """The rows of actions and of the observations that belong to them, and the number of steps left out by reason."""
    rows, dropped = np.arange(length), collections.Counter[str]()
    for name in card.steps:
        dropped[name] += min(len(rows), 1)
        rows = rows[1:] if name == "drop_first" else rows[:-1]
    if card.alignment == "post" and len(rows):
        dropped["no observation before it"] += 1
        return rows[1:], rows[:-1], dropped
    return rows, rows, dropped


def _terminate(raw: Raw, length: int, rows: np.ndarray) -> np.ndarray:
    """Whether the task is done in each of the rows: by the flags of that name, one per step, else in the last row."""
    flags = raw.get("terminate")
    if isinstance(flags, np.ndarray) and flags.size == length:
        return flags.astype(bool).reshape(-1)[rows]
    return np.arange(len(rows)) == len(rows) - 1


def _extra(raw: Raw, length: int) -> list[dict[str, Any]]:
    """Further values of each step, if the data are ours; others may have a column of that name."""
    extra = raw.get("extra")
    if isinstance(extra, list) and len(extra) == length and all(isinstance(values, dict) for values in extra):
        return extra
    return [{}] * length


def _interventions(raw: Raw, key: str, length: int, where: str) -> np.ndarray:
    """Whether a person acted in each step, bool [T]; UserError unless there is one number per step."""
    value = _get(raw, key, where)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub" or value.size != length:
        raise UserError(
            f"it holds {found(value)}, not one value for each of {length} steps", f"{where}, {key}", "name another key"
        )
    return value.reshape(-1) != 0


def _apart(extra: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The steps' further values, with a new segment where another acts: no chunk has the actions of both."""
    if not any("actor" in values for values in extra):
        return extra
    whose = [(values.get("segment", 0), values.get("actor")) for values in extra]
    changes = np.cumsum([i > 0 and whose[i] != whose[i - 1] for i in range(len(whose))])
    return [{**values, "segment": int(segment)} for values, segment in zip(extra, changes, strict=True)]


def _instruction(raw: Raw, card: SourceCard, text: str, length: int, where: str) -> list[str]:
    for key in card.instruction:
        instruction = texts(raw.get(key), length, f"{where}, {key}")
        if any(text_of_step.strip() for text_of_step in instruction):
            return instruction
    if not (text or card.text):
        # A person's card names a key that is not there: other texts must not be overwritten by a general one.
        named = card.stated is None and card.instruction and not any(key in raw for key in card.instruction)
        if named and (others := text_keys(fields_of(raw))):
            what = f"there is no {', '.join(card.instruction)}; there are texts in {', '.join(others)}"
            raise UserError(what, f"{where}, instruction", f"name one of them in the card: instruction: [{others[0]}]")
        raise Dropped(NO_INSTRUCTION)
    return [text or card.text] * length


def texts(value: Texts, length: int, where: str) -> list[str]:
    """T texts from one text, T texts or byte strings, or T rows of code points that end with 0 (Language-Table)."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value] * length
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.ndim:
        rows = value.reshape(len(value), math.prod(value.shape[1:]))
        if ((rows < 0) | (rows > 0x10FFFF)).any():
            raise UserError("it holds numbers that are not characters", where, "name a text in the card")
        value = ["".join(map(chr, row[: np.argmin(row != 0) if (row == 0).any() else len(row)])) for row in rows]
    if not isinstance(value, list):
        raise UserError("it holds no texts", where, "name another key in the card")
    decoded = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in value]
    if len(decoded) != length:
        raise UserError(f"{len(decoded)} texts for {length} steps", where)
    return decoded


def _check_finite(values: np.ndarray, parts: Sequence[Part], rows: np.ndarray, where: str) -> None:
    # Values beyond the range of float32 are refused too.
    fits = np.abs(values) <= np.finfo(np.float32).max
    if not fits.all():
        step, dimension = np.argwhere(~fits)[0]
        names = [name for part in parts for name in part.names]
        raise UserError(
            f"{names[dimension]} is {values[step, dimension]} at step {rows[step]}", where, "skip it: --on-error skip"
        )


def still(action: np.ndarray, card: SourceCard) -> np.ndarray:
    """bool [T], True for steps that neither move the robot nor change the gripper."""
    roles = np.array([part.role for part in card.action for _ in part.names])
    gripper = action[:, roles == "gripper"]
    same = np.append(True, (np.abs(np.diff(gripper, axis=0)) < STILL).all(1)) if len(action) else np.zeros(0, bool)
    moves = action
    if card.mode == "absolute":
        moves = np.append(np.full((min(len(action), 1), action.shape[1]), np.inf), np.diff(action, axis=0), 0)
        for columns, form, unit in rotations_of(card):
            if form is not None:
                # The numbers of one rotation differ between pi and -pi.
                moves[1:, columns] = 0
                moves[1:, columns.start] = form.angles_between(action[:, columns], unit)
    return same & (np.linalg.norm(moves[:, roles != "gripper"], axis=1) < STILL)


def _groups(starts: np.ndarray, length: int) -> list[tuple[int, int]]:
    """The first step of each group, and the step after its last."""
    return list(zip(starts.tolist(), [*starts.tolist()[1:], length], strict=False)) if len(starts) else []
