"""What can be guessed of a data set's conventions from its names and values, each with what it is guessed from."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from vla.datasets.formats.conventions.from_card import role_of
from vla.datasets.formats.conventions.prepare import Changes, Dropped, prepare
from vla.datasets.formats.conventions.source_card import Part, Role, SourceCard
from vla.datasets.formats.images import image_size
from vla.datasets.formats.readers.base import Reader
from vla.datasets.formats.readers.frames import frames_of
from vla.errors import UserError

LOOKED_AT = 10
"""Number of records that are read."""
UNSAID = "\0"
CLOSE, ALIKE = 0.8, 0.7
"""Share of the variance of the actions that the states explain, and correlation with their differences, above which a mode is
guessed."""


@dataclasses.dataclass
class Sample:
    """The first records of a data set.

    Attributes:
        actions, states: one array [T, A] or [T, S] per record.
        texts: the different instructions, in order.
        sizes: camera -> height and width of its first image.
    """

    actions: list[np.ndarray] = dataclasses.field(default_factory=list)
    states: list[np.ndarray] = dataclasses.field(default_factory=list)
    texts: list[str] = dataclasses.field(default_factory=list)
    sizes: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)

    def values(self, space: str) -> np.ndarray:
        """The actions or states of all records, [N, D]; [0, 0] if none could be read."""
        arrays = self.actions if space == "action" else self.states
        return np.concatenate(arrays) if arrays else np.zeros((0, 0))


def look(reader: Reader, card: SourceCard) -> Sample:
    """Reads some records, without their images but for one of each camera. Those that cannot be read are passed over."""
    sample, blind = Sample(), dataclasses.replace(card, cameras={})
    refs = (ref for ref in reader.refs_for(card) if card.action and not ref.damage)
    for ref in itertools.islice(refs, LOOKED_AT):
        try:
            raw = reader.read(ref)
            episode = prepare(raw, blind, Changes(text=UNSAID), ref.name)
        except (Dropped, UserError):
            continue
        sample.actions.append(episode.action)
        sample.states.append(episode.state)
        sample.texts += [text for text in dict.fromkeys(episode.instruction) if text not in (UNSAID, *sample.texts)]
        for name, camera in card.cameras.items() if not sample.sizes else ():
            try:
                frame = next(iter(frames_of(raw[camera.key], camera.key, ref.name).rows([0])))
                sample.sizes[name] = image_size(frame, ref.name)
            except (UserError, KeyError):
                continue
    return sample


def roles(parts: Sequence[Part], values: np.ndarray) -> list[Role]:
    """The role of each dimension by its name; of those without a telling name, one with just two values is a gripper."""
    guessed: list[Role] = [part.role if part.role != "other" else role_of(name) for part in parts for name in part.names]
    unknown = not set(guessed) - {"other"} and len(values)
    return ["gripper" if unknown and len(np.unique(values[:, d])) == 2 else role for d, role in enumerate(guessed)]


def mode(card: SourceCard, sample: Sample) -> tuple[str, str]:
    """`delta` or `absolute` and why; "" twice if neither names nor values tell.

    Absolute actions are near the state that follows; deltas resemble the difference to it.
    """
    names = [name for part in card.action for name in part.names]
    grippers = [role == "gripper" for role in roles(card.action, sample.values("action"))]
    for key, columns in _counterparts(card, names):
        pairs = [
            (a[:-1], s[1:, columns], np.diff(s[:, columns], axis=0)) for a, s in zip(sample.actions, sample.states, strict=True)
        ]
        if not pairs:
            return "", ""
        action, following, difference = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        moving = (action.std(0) > 0) & ~np.array(grippers)
        if len(action) < 3 or not moving.any():
            continue
        if np.median(1 - ((action - following) ** 2).mean(0)[moving] / action.var(0)[moving]) > CLOSE:
            return "absolute", f"the actions are near the following {key}"
        moving &= difference.std(0) > 0
        alike = [np.corrcoef(action[:, d], difference[:, d])[0, 1] for d in np.flatnonzero(moving)]
        if alike and np.median(alike) > ALIKE:
            return "delta", f"the actions resemble the differences of {key} (correlation {np.median(alike):.2f})"
    moved = [name for name in names if name.startswith(("dx", "dy", "dz", "drx", "dry", "drz", "delta"))]
    return ("delta", f"of the name {moved[0]}") if moved else ("", "")


def _counterparts(card: SourceCard, names: list[str]) -> Iterator[tuple[str, list[int]]]:
    """The states that may be those that the actions command: of the same names, or as many under one key."""
    state = [(part.key, name) for part in card.state for name in part.names]
    by_name = {name: column for column, (_, name) in enumerate(state)}
    if all(name in by_name for name in names):
        yield "state of the same name", [by_name[name] for name in names]
    for key in dict.fromkeys(key for key, _ in state):
        columns = [column for column, (k, _) in enumerate(state) if k == key]
        if len(columns) == len(names):
            yield key, columns


def gripper(card: SourceCard, values: np.ndarray) -> tuple[str, str]:
    """What the values of the gripper mean and where that is said: in a name that says open or closed; "" twice if none does."""
    meanings = {}
    names = [name for part in card.action for name in part.names]
    for d, role in enumerate(roles(card.action, values)):
        opens, closes = "open" in names[d].lower(), "clos" in names[d].lower()
        if role != "gripper" or opens == closes:
            continue
        low, high = _ends(values[:, d]) if len(values) else (0, 1)
        meanings[f"{low:g} closed, {high:g} open" if opens else f"{low:g} open, {high:g} closed"] = names[d]
    return next(iter(meanings.items())) if len(meanings) == 1 else ("", "")


def _ends(values: np.ndarray) -> tuple[float, float]:
    """The ends of a scale from some of its values: 0 to 1, -1 to 1 or 0 to 100 if they fit, else the values' own."""
    least, most = float(values.min()), float(values.max())
    scales = [(0.0, 1.0), (-1.0, 1.0), (0.0, 100.0)]
    slack = 0.05
    fits = (s for s in scales if s[0] - slack * s[1] <= least and s[1] / 2 < most <= s[1] * (1 + slack))
    return next(fits, (round(least, 3), round(most, 3)))
