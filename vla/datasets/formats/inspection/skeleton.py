"""Writes a card for a data set: what was found in it, what is guessed and from what, and what a person must decide."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vla import yaml12
from vla.datasets.formats.conventions.forms import LISTED
from vla.datasets.formats.conventions.source_card import NOT_SAID, Part, SourceCard, vector_names
from vla.datasets.formats.conventions.undecided import DECIDE
from vla.datasets.formats.inspection import guesses
from vla.datasets.formats.inspection.guesses import Sample
from vla.datasets.formats.inspection.names import fitting
from vla.datasets.formats.readers.base import Field, Reader
from vla.datasets.formats.readers.frames import text_keys
from vla.errors import UserError

ORIENTATIONS = "upright, raw_opengl (bottom row first), rot180 or mirrored"
MODES = "delta (differences to the current pose or joints) or absolute (targets)"
ALIGNMENTS = "pre (each observation was made before its action) or post (after it)"
GRIPPERS = "what its numbers mean, e.g. 0 closed, 1 open; or none"
ORDERS = {
    "lerobot": "LeRobot's recorder reads cameras and state before it acts",
    "rlds": "a step of RLDS is an observation and the action after it",
}
"""Format -> why observations come before their actions, as far as the format goes."""
WIDTH = 120


def skeleton(reader: Reader) -> str:
    """The card as YAML. It is refused by `load_source_card` until every DECIDE is replaced.

    Raises:
        UserError: the data are images with questions, whose conventions need no card.
    """
    if reader.kind != "robot":
        raise UserError("images with questions need no card", str(reader.path), "vla data convert SOURCE OUT")
    card, fields = reader.card(), reader.fields()
    sample = guesses.look(reader, card)
    lines = [
        *_head(reader, card, fields),
        *_cameras(card, fields, sample),
        *_space("state", card, fields, sample),
        *_space("action", card, fields, sample),
        *_instruction(card, fields, sample),
        *_intervention(card, fields),
        *_conventions(reader.format, card, sample),
    ]
    return "\n".join(lines) + "\n"


def _head(reader: Reader, card: SourceCard, fields: Mapping[str, Field]) -> Iterator[str]:
    yield f"# A card for {reader.path.name} ({reader.format}), begun by `vla data card`. Check what is guessed, and put a"
    yield f"# value in place of every {DECIDE}: until then the card is refused. `vla data preview` shows images and values."
    if shipped := fitting(fields):
        yield f"# The package has cards whose names fit these data: {', '.join(shipped)}. Is one of them for this data set?"
    yield _line("title", card.title or reader.path.name)
    yield _line("verified", card.verified, "say here what you checked the card against")
    if card.says("embodiment"):
        yield _line("embodiment", card.embodiment, _found(card, "embodiment"))
    else:
        yield _line("embodiment", reader.path.stem, "the robot's name; guessed: that of the data set")


def _cameras(card: SourceCard, fields: Mapping[str, Field], sample: Sample) -> Iterator[str]:
    if not card.cameras:
        images = [name for name, field in fields.items() if field.kind == "images"]
        example = f"{{front: {{key: {images[0] if images else 'NAME'}, orientation: upright}}}}"
        yield _line("cameras", DECIDE, f"{example}; images: {', '.join(images) or 'none found'}")
        return
    yield "cameras:"
    for name, camera in card.cameras.items():
        size = " x ".join(map(str, sample.sizes.get(name, ())))
        orientation, comment = DECIDE, ORIENTATIONS
        if card.says("orientation"):
            orientation, comment = camera.orientation, _found(card, "orientation")
        entry = f"  {_flow(name)}: {{key: {_flow(camera.key)}, orientation: {orientation}}}"
        yield f"{entry}  # {comment}" + f"; its images are {size}" * bool(size)


def _space(space: str, card: SourceCard, fields: Mapping[str, Field], sample: Sample) -> Iterator[str]:
    parts: tuple[Part, ...] = getattr(card, space)
    numbers = ", ".join(f"{name} ({field.width})" for name, field in fields.items() if field.kind == "numbers")
    if not parts:
        if space == "state":
            yield _line("state", [], f"none found; numbers: {numbers or 'none'}")
        else:
            yield _line("action", DECIDE, f"[{{key: NAME, names: [one for each dimension]}}]; numbers: {numbers or 'none'}")
        return
    values = sample.values(space)
    if card.stated is None:
        yield f"{space}:  # found: the data's own card"
    else:
        names = "names are not said: give your own" if any(map(_is_numbered, parts)) else "found: the names"
        yield f"{space}:  # {names}; guessed: roles; units (m, rad, deg …) are not said"
    start = 0
    for part in parts:
        end = start + len(part.names)
        within = values[:, start:end] if len(values) else values
        for piece, columns in _by_role(part, within):
            yield from _part(piece, within[:, columns] if len(values) else values)
        start = end


def _is_numbered(part: Part) -> bool:
    """Whether a part's dimensions have numbers for names."""
    return len(part.names) > 1 and part.names == vector_names(part.names[0].removesuffix("0"), len(part.names))


def _by_role(part: Part, values: np.ndarray) -> Iterator[tuple[Part, list[int]]]:
    """The part, divided into runs of one role each."""
    roles = guesses.roles([part], values)
    for role, run in itertools.groupby(range(len(roles)), roles.__getitem__):
        columns = list(run)
        pick = part.pick or tuple(range(len(roles)))
        whole = len(columns) == len(roles)
        picked = part.pick if whole else tuple(pick[c] for c in columns)
        yield dataclasses.replace(part, pick=picked, names=tuple(part.names[c] for c in columns), role=role), columns


def _part(part: Part, values: np.ndarray) -> Iterator[str]:
    """A part, on one line if it fits, and before it what was found in its values."""
    if len(values):
        low, high = ([f"{end:.3g}" for end in ends.tolist()] for ends in (values.min(0), values.max(0)))
        if len(part.names) == 1:
            yield f"  # found: {low[0]} to {high[0]}" + ", nothing between" * (len(np.unique(values)) == 2)
        else:
            yield from (f"  # found: least {', '.join(low)}", f"  # found: most {', '.join(high)}")
    defaults = Part()
    fields = {f.name: getattr(part, f.name) for f in dataclasses.fields(Part)}
    stated = {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items() if v != getattr(defaults, k)}
    line = f"  - {{{', '.join(f'{k}: {_flow(v)}' for k, v in stated.items())}}}"
    if len(line) <= WIDTH:
        yield line
        return
    for number, (key, value) in enumerate(stated.items()):
        yield f"  {' ' if number else '-'} {key}: {_flow(value)}"


def _instruction(card: SourceCard, fields: Mapping[str, Field], sample: Sample) -> Iterator[str]:
    others = [name for name in text_keys(fields) if name not in card.instruction]
    if sample.texts:
        texts = repr(sample.texts[0]) + f" and {len(sample.texts) - 1} more" * (len(sample.texts) > 1)
        yield _line("instruction", list(card.instruction), f"found: {texts} in {len(sample.actions)} episodes")
    elif others:
        yield _line("instruction", DECIDE, f"[KEY] of {', '.join(others)}; or [], and one text for all in the next line")
        yield _line("text", "")
    else:
        yield _line("instruction", [], "no texts were found")
        yield _line("text", DECIDE, "the instruction of all episodes")


def _intervention(card: SourceCard, fields: Mapping[str, Field]) -> Iterator[str]:
    flags = [name for name, field in fields.items() if field.kind == "numbers" and "intervention" in name.lower()]
    if key := card.intervention or next(iter(flags), ""):
        yield _line("intervention", key, "found: the name; not 0 where a person acted instead of a policy")


def _conventions(format: str, card: SourceCard, sample: Sample) -> Iterator[str]:
    if not card.says("alignment") and format in ORDERS:
        yield _line("alignment", "pre", f"guessed: {ORDERS[format]}; or post")
    else:
        yield _said_or_decided(card, "alignment", ALIGNMENTS)
    mode, why = ("", "") if card.says("mode") else guesses.mode(card, sample)
    if mode:
        yield _line("mode", mode, f"guessed: {why}; or {'delta' if mode == 'absolute' else 'absolute'}")
    else:
        yield _said_or_decided(card, "mode", MODES)
    action = sample.values("action")
    roles = guesses.roles(card.action, action)
    if roles.count("rotation") > 2 and card.rotation == NOT_SAID:
        yield _line("rotation", DECIDE, LISTED)
    else:
        yield _line("rotation", card.rotation, "how rotations are written, if the action has any")
    yield _line("frame", card.frame, "of positions and rotations in the action, e.g. base; joints need none")
    yield _gripper(card, roles, action)
    yield _said_or_decided(card, "control_hz", "actions per second")


def _said_or_decided(card: SourceCard, name: str, choices: str) -> str:
    if card.says(name):
        return _line(name, getattr(card, name), _found(card, name))
    return _line(name, DECIDE, choices)


def _gripper(card: SourceCard, roles: list[Any], action: np.ndarray) -> str:
    names = [name for part in card.action for name in part.names]
    grippers = [d for d, role in enumerate(roles) if role == "gripper"]
    if card.gripper != NOT_SAID:
        return _line("gripper", card.gripper, _found(card, "gripper"))
    meaning, name = guesses.gripper(card, action)
    if meaning:
        return _line("gripper", meaning, f"guessed: of the name {name}")
    if not grippers:
        return _line("gripper", DECIDE, f"{GRIPPERS}; no dimension is known to be one: give it the role gripper above")
    ranges = [f"{names[d]} is {action[:, d].min():.4g} to {action[:, d].max():.4g}" for d in grippers] if len(action) else []
    return _line("gripper", DECIDE, "; ".join([GRIPPERS, *ranges]))


def _found(card: SourceCard, name: str) -> str:
    """Where the data say a convention."""
    return "found: " + ((card.stated or {}).get(name) or "the data's own card")


def _line(name: str, value: Any, comment: str = "") -> str:
    return f"{name}: {_flow(value)}" + f"  # {' '.join(comment.split())}" * bool(comment)


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml12.dump(value, default_flow_style=True, width=1 << 20, allow_unicode=True, sort_keys=False)
    return text.strip().removesuffix("...").strip()
