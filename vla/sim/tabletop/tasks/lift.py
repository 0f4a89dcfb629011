"""Lift X."""

from __future__ import annotations

import numpy as np

from vla.sim.tabletop.scene import Scene
from vla.sim.tabletop.tasks.base import Goal, Layout, Table, Task
from vla.sim.tabletop.variation import SEEN, TabletopVariation, draw_scene

LIFTED = 0.05
"""An object is up when its underside is this far (m) above the table."""


class Lift(Task):
    """Success: the named object is at least LIFTED above the table for HOLD_STEPS steps, and no other was so high before."""

    name = "lift"
    wordings = (
        "lift the {name}",
        "pick up the {name}",
        "raise the {name}",
        "grab the {name}",
        "take the {name}",
        "lift up the {name}",
        "pick the {name} up",
    )
    horizon = 80

    def draw(self, rng: np.random.Generator, count: int, variation: TabletopVariation = SEEN) -> Layout:
        return Layout(draw_scene(rng, count, variation), (Goal(self.name, 0), Goal(self.name, 1)))

    def candidates(self, scene: Scene, goal: Goal | None) -> list[Goal]:
        return [Goal(self.name, i) for i, o in enumerate(scene) if o.movable]

    def holds(self, table: Table, goal: Goal) -> bool:
        return table.lift(goal.target) >= LIFTED

    def spoils(self, table: Table, index: int) -> bool:
        return table.lift(index) >= LIFTED

    def begun(self, table: Table, index: int) -> bool:
        return table.lift(index) >= LIFTED
