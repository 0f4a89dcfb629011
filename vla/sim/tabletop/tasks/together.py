"""Scenes in which every task is possible, with the same object.

Each task's own scenes give it away: only those of putting have receptacles, and only those of pushing flat objects. Here the
sentence alone says what is to be done. A seed gives the same scene whatever the task, so a scene is seen under the sentences of
every task.
"""

from __future__ import annotations

import numpy as np

from vla.sim.tabletop.scene import COLOURS, FLAT, RECEPTACLES, SHAPES, Scene, arrange
from vla.sim.tabletop.tasks.base import Goal, Layout, Task
from vla.sim.tabletop.tasks.lift import Lift
from vla.sim.tabletop.tasks.place import Put, Stack
from vla.sim.tabletop.tasks.push import Push
from vla.sim.tabletop.variation import SEEN, TabletopVariation

RELATION = 0.4
"""Share of the scenes in which pushing is to a side of another object: about as in pushing's own scenes."""


def draw_layout(task: Task, rng: np.random.Generator, count: int, variation: TabletopVariation = SEEN) -> Layout:
    """A scene with two goals of a task: as `Task.draw`, or, if the variation says so, one in which every task is possible."""
    if not variation.every_task:
        return task.draw(rng, count, variation)
    scene, goals = draw_together(rng)
    return Layout(scene, goals[task.name])


def draw_together(rng: np.random.Generator) -> tuple[Scene, dict[str, tuple[Goal, Goal]]]:
    """Draws a scene, and by task its two goals there.

    The scene has two flat objects, which can be lifted, put, stacked and pushed, a third of any shape, and a receptacle. Every
    task's correct goal is about the first object. The swapped one is about the second, or takes the first to another place.
    """
    wanted, relation = str(rng.choice(["left", "right", "front"])), bool(rng.random() < RELATION)
    lift, put, push, stack = (task.name for task in (Lift, Put, Push, Stack))
    while True:
        shapes = [*rng.choice(list(FLAT), 2), rng.choice([*SHAPES, *FLAT]), rng.choice(list(RECEPTACLES))]
        scene = arrange(rng, [(str(c), str(s)) for c, s in zip(rng.permutation(list(COLOURS)), shapes, strict=False)])
        pushes = [goal for goal in Push().feasible(scene, relation) if goal.target < 2]
        for first in (goal for goal in pushes if (goal.target, goal.side) == (0, wanted)):
            if swapped := Push().swapped(rng, first, pushes):
                return scene, {
                    lift: (Goal(lift, 0), Goal(lift, 1)),
                    put: (Goal(put, 0, 3), Goal(put, 1, 3)),
                    push: (first, swapped),
                    stack: (Goal(stack, 0, 1), Goal(stack, int(rng.integers(2)), 2)),
                }
