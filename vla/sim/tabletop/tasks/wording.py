"""Reading instructions: which objects and which side a sentence names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vla.sim.tabletop.scene import COLOURS, FLAT, RECEPTACLES, SHAPES, SIZES
from vla.sim.tabletop.tasks.push import SIDES

_NAME = re.compile(rf"\b(?:({'|'.join(filter(None, SIZES))}) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES | FLAT | RECEPTACLES)})\b")
_SIDE = re.compile(rf"\b({'|'.join(SIDES)})\b")


def named_objects(instruction: str) -> list[str]:
    """The objects and receptacles ("red cube", "small red cube", "blue tray") that a sentence names, in its order."""
    return [" ".join(filter(None, match)) for match in _NAME.findall(_plain(instruction))]


def named_object(instruction: str) -> str | None:
    """The first object that a sentence names, or None."""
    return next(iter(named_objects(instruction)), None)


def named_of(names: Sequence[str], instruction: str) -> list[int]:
    """The indices of these names in the order in which a sentence has them."""
    # The longest first: "red cube" is also in "small red cube".
    longest = sorted(names, key=len, reverse=True)
    found = re.findall(rf"\b({'|'.join(map(re.escape, longest))})\b", _plain(instruction))
    return [names.index(name) for name in found]


def named_side(instruction: str) -> str:
    """The side that a sentence names, or ""."""
    match = _SIDE.search(_plain(instruction))
    return match[1] if match else ""


def _plain(instruction: str) -> str:
    return " ".join(instruction.lower().replace(".", " ").replace(",", " ").split())


def known_objects() -> list[str]:
    """The names that instructions may use."""
    return [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES | FLAT | RECEPTACLES]
