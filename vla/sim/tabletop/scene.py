"""What stands on the table: objects by colour and shape, drawn by seed. Plain data, no simulator."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.08, 0.08),
    "green": (0.10, 0.65, 0.15),
    "blue": (0.10, 0.20, 0.85),
    "yellow": (0.95, 0.85, 0.10),
    "purple": (0.55, 0.10, 0.65),
    "white": (0.97, 0.97, 0.97),
}
SHAPES: dict[str, tuple[float, float]] = {"cube": (0.023, 0.023), "cylinder": (0.021, 0.036)}
"""Half the width (edge or radius) and half the height in metres. Cylinders are tall: at the policy's few pixels a shape is its
outline."""
UNSEEN_COLOURS: dict[str, tuple[float, float, float]] = {
    "orange": (0.95, 0.45, 0.05),
    "turquoise": (0.10, 0.75, 0.75),
    "pink": (0.95, 0.50, 0.70),
    "brown": (0.45, 0.25, 0.10),
}
UNSEEN_SHAPES: dict[str, tuple[float, float]] = {"ball": (0.025, 0.025), "drum": (0.029, 0.026), "cone": (0.029, 0.036)}
"""Colours and shapes that no demonstration has; of the questions, those of the wide world alone. A cone's width is its base's."""
FLAT: dict[str, tuple[float, float]] = {"disc": (0.026, 0.015), "tile": (0.026, 0.015)}
"""Shapes that are pushed: a finger's pad begins 9 mm over the table, and what is pushed higher than its half width by its
friction (1.5) tips over. No question and no scene of lifting has them."""
ANGULAR = ("cube", "tile")
"""Shapes that show how they are turned."""
RECEPTACLES: dict[str, tuple[float, float]] = {"tray": (0.06, 0.013), "plate": (0.056, 0.004)}
"""What objects are put into (a tray has a rim) or onto; half the width and half the height in metres."""
WALL, FLOOR = 0.006, 0.004
"""Thickness of a tray's walls and of its floor (m)."""
SIZES: dict[str, float] = {"": 1.0, "small": 0.8, "large": 1.25}
"""A size by name and what it makes of a shape's measures; without a name it is the only size."""
WIDEST = 0.034
"""Half the width (m) that no size makes an object exceed: the open gripper still fits around it."""
REACH_X, REACH_Y = (-0.11, 0.13), (-0.16, 0.16)
"""Where objects may stand, in metres from the middle of the table."""
SPACING = 0.1
"""Least distance between two objects' middles: an open gripper fits between them."""
APART, BESIDE = 0.15, 0.125
"""Least distance between the middles of two receptacles, and of a receptacle and an object."""
TURN = 0.3
"""Largest yaw (rad) of an object in a task."""
SLOTS = 4


@dataclasses.dataclass(frozen=True)
class Object:
    """One object or receptacle: colour, shape and size by name, its place (metres from the table's middle) and yaw (radians)."""

    colour: str
    shape: str
    x: float
    y: float
    yaw: float
    size: str = ""

    @property
    def name(self) -> str:
        return f"{self.size} {self.colour} {self.shape}".lstrip()

    @property
    def kind(self) -> str:
        """Colour and shape."""
        return f"{self.colour} {self.shape}"

    @property
    def movable(self) -> bool:
        """Whether the gripper can hold it; a receptacle is too wide."""
        return self.shape not in RECEPTACLES

    @property
    def half_width(self) -> float:
        return measures(self.shape, self.size)[0]

    @property
    def half_height(self) -> float:
        return measures(self.shape, self.size)[1]


Scene = tuple[Object, ...]


def rgb(colour: str) -> tuple[float, float, float]:
    """The paint of a colour, whether training has it or not."""
    return (COLOURS | UNSEEN_COLOURS)[colour]


def measures(shape: str, size: str = "") -> tuple[float, float]:
    """Half the width and half the height (m) of a shape in one of its sizes, whether training has it or not."""
    width, height = (SHAPES | UNSEEN_SHAPES | FLAT | RECEPTACLES)[shape]
    return min(width * SIZES[size], max(width, WIDEST)), height * SIZES[size]


def sample_scene(rng: np.random.Generator, count: int, distinct_colours: bool = True, turn: float = TURN) -> Scene:
    """Draws a scene of `count` objects with pairwise different names (and colours, if so asked), none in another's way.

    Args:
        rng: where the randomness comes from; the same generator state gives the same scene.
        count: 1 to SLOTS objects.
        distinct_colours: whether a colour alone tells an object.
        turn: largest yaw (rad).
    """
    if distinct_colours:
        names = [(str(c), str(rng.choice(list(SHAPES)))) for c in rng.permutation(list(COLOURS))[:count]]
    else:
        pairs = list(itertools.product(COLOURS, SHAPES))
        names = [pairs[i] for i in rng.permutation(len(pairs))[:count]]
    return arrange(rng, names, turn)


def arrange(rng: np.random.Generator, names: Sequence[tuple[str, ...]], turn: float = TURN) -> Scene:
    """Objects of these colours, shapes and (if given) sizes at random places, far enough apart, each turned by at most `turn`
    (rad)."""
    count, wide = len(names), np.array([name[1] in RECEPTACLES for name in names], bool)
    least = np.where(wide[:, None] & wide, APART, np.where(wide[:, None] | wide, BESIDE, SPACING))
    np.fill_diagonal(least, 0)
    while True:
        places = np.stack([rng.uniform(*REACH_X, count), rng.uniform(*REACH_Y, count)], 1)
        if (np.linalg.norm(places[:, None] - places[None], axis=-1) >= least).all():
            break
    yaws = rng.uniform(-turn, turn, count)
    return tuple(
        Object(colour, shape, float(x), float(y), float(yaw), *size)
        for (colour, shape, *size), (x, y), yaw in zip(names, places, yaws, strict=True)
    )
