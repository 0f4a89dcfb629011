"""The wide world: scenes and looks that questions have and demonstrations never do. Plain data, no simulator.

Its looks differ by a margin from those of the suites in the package, so that an evaluation's table top, room, light, camera and
height are new to a policy that learned from both.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np

from vla.sim.suites import known_suites, load_suite
from vla.sim.tabletop.questions import TURN
from vla.sim.tabletop.scene import SIZES, Scene, arrange, rgb
from vla.sim.tabletop.variation import MATERIALS, Rgb, TabletopVariation
from vla.sim.tabletop.words import COLOURS, SHAPES

CAMERA, RAISED = 0.09, 0.045
"""Largest displacement (m) of the camera along an axis, and of the table."""
CONTRAST = 0.2
"""Least distance of a table top's colour from every object's."""
MARGINS = {"table": 0.1, "floor": 0.1, "walls": 0.1, "light": 0.1, "camera": 0.03, "raised": 0.008}
"""Field of a variation -> its least distance from each suite's: Euclidean, in its own unit."""


def draw_scene(rng: np.random.Generator, count: int) -> Scene:
    """A scene of `count` objects whose colours and shapes differ as pairs, and in most scenes their colours too. Two thirds are
    small or large."""
    if rng.random() < 0.7:
        kinds = [(str(c), str(rng.choice(list(SHAPES)))) for c in rng.permutation(list(COLOURS))[:count]]
    else:
        pairs = list(itertools.product(COLOURS, SHAPES))
        kinds = [pairs[i] for i in rng.permutation(len(pairs))[:count]]
    return arrange(rng, [(*kind, str(rng.choice(list(SIZES)))) for kind in kinds], TURN)


def draw_look(rng: np.random.Generator) -> TabletopVariation:
    """Table top, room, light, camera pose and height of one image; each is training's in some images, and none is a suite's."""
    while True:
        changed = {name for name in MARGINS if rng.random() < 0.75}
        look = TabletopVariation("wide", **{name: value for name, value in _draw_fields(rng).items() if name in changed})
        hides = not isinstance(look.table, str) and any(
            np.linalg.norm(np.subtract(look.table, rgb(c))) < CONTRAST for c in COLOURS
        )
        if not hides and not any(_near(look, name, value) for name in changed for value in held_out(name)):
            return look


def _draw_fields(rng: np.random.Generator) -> dict:
    brightness = rng.uniform(0.7, 1.2)
    return {
        "table": str(rng.choice(MATERIALS)) if rng.random() < 0.15 else _three(rng, 0.05, 0.6),
        "floor": _three(rng, 0.1, 0.95),
        "walls": _three(rng, 0.1, 0.95),
        # A colour must remain the colour that it is.
        "light": tuple(float(f * brightness) for f in _three(rng, 0.9, 1.08)),
        "camera": _three(rng, -CAMERA, CAMERA),
        "raised": float(rng.uniform(-RAISED, RAISED)),
    }


def _three(rng: np.random.Generator, low: float, high: float) -> Rgb:
    one, two, three = rng.uniform(low, high, 3).tolist()
    return one, two, three


@functools.cache
def held_out(name: str) -> tuple:
    """The values of a field of MARGINS in the suites of the package."""
    variations = [v for suite in known_suites() for v in load_suite(suite).variations if name in v.changes]
    return tuple(getattr(v, name) for v in variations)


def _near(look: TabletopVariation, name: str, value: Rgb | str | float) -> bool:
    own = getattr(look, name)
    if isinstance(own, str) or isinstance(value, str):
        return own == value
    return float(np.linalg.norm(np.subtract(own, value))) < MARGINS[name]
