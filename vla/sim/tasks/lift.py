"""Lift X."""

from __future__ import annotations

import numpy as np

from vla.sim.scene import Scene, sample_scene, sample_varied_scene
from vla.sim.tasks.base import Goal, Layout, Table, Task, Variety

LIFTED = 0.05
"""An object is up when its underside is this far (m) above the table."""


class Lift(Task):
    """Success: the named object is at least LIFTED above the table for HOLD_STEPS steps, and no other was before it."""

    name = "lift"
    wordings = (
        "lift the {target}",
        "pick up the {target}",
        "raise the {target}",
        "grab the {target}",
        "take the {target}",
        "lift up the {target}",
        "pick the {target} up",
    )
    horizon = 80

    def draw(self, rng: np.random.Generator, variety: Variety) -> Layout:
        scene = sample_varied_scene(rng, variety.objects, sizes=True) if variety.sizes else sample_scene(rng, variety.objects)
        return Layout(scene, (Goal(self.name, 0), Goal(self.name, 1)))

    def candidates(self, scene: Scene, goal: Goal | None) -> list[Goal]:
        return [Goal(self.name, i) for i in range(len(scene))]

    def holds(self, table: Table, goal: Goal) -> bool:
        return table.lift(goal.target) >= LIFTED

    def begun(self, table: Table, index: int) -> bool:
        return table.lift(index) >= LIFTED
