"""Put X into or onto a receptacle; stack X on another object."""

from __future__ import annotations

import abc

import numpy as np

from vla.sim.scene import FLOOR, SLOTS, WALL, Scene, sample_varied_scene
from vla.sim.tasks.base import Goal, Layout, Table, Task, Variety

PICKED = 0.03
"""An object that is grasped has been picked up when its underside is this far (m) above the table."""
LEVEL = 0.005
"""Largest height (m) between a placed object's underside and what it stands on: what is let go of there falls no farther."""


class Place(Task):
    """A task whose target ends on its reference, and let go of."""

    horizon = 120

    @abc.abstractmethod
    def rests(self, table: Table, goal: Goal) -> bool:
        """Whether the target is where it belongs, whoever holds it there."""

    def holds(self, table: Table, goal: Goal) -> bool:
        return not table.grasped(goal.target) and self.rests(table, goal)

    def begun(self, table: Table, index: int) -> bool:
        return table.scene[index].movable and table.grasped(index) and table.lift(index) >= PICKED

    def candidates(self, scene: Scene, goal: Goal | None) -> list[Goal]:
        movable = [i for i, o in enumerate(scene) if o.movable]
        return [Goal(self.name, i, j) for i in movable for j in self.supports(scene) if i != j]

    @abc.abstractmethod
    def supports(self, scene: Scene) -> list[int]:
        """The objects on which something can be placed."""


def top(table: Table, index: int) -> float:
    """Height (m) over the table of the surface that carries what is placed on object `index`."""
    item = table.scene[index]
    return float(table.position(index)[2]) - item.half_height + (FLOOR if item.shape == "tray" else 2 * item.half_height)


class Put(Place):
    """Success: for HOLD_STEPS steps the target is not grasped, its middle is over the receptacle's inside and at most LEVEL higher
    than if it stood there (it may lie on its side); no other object was put into a receptacle before."""

    name = "put"
    wordings = (
        "put the {target} into the {reference}",
        "place the {target} in the {reference}",
        "move the {target} into the {reference}",
        "drop the {target} in the {reference}",
        "set the {target} into the {reference}",
        "put the {target} onto the {reference}",
        "place the {target} on the {reference}",
        "move the {target} onto the {reference}",
        "lay the {target} on the {reference}",
        "set the {target} onto the {reference}",
    )

    def instruct(self, scene: Scene, goal: Goal, rng: np.random.Generator) -> str:
        # One goes into a tray and onto a plate.
        assert goal.reference is not None
        inside = scene[goal.reference].shape == "tray"
        said = str(rng.choice(self.wordings[:5] if inside else self.wordings[5:]))
        return said.format(target=scene[goal.target].name, reference=scene[goal.reference].name)

    def draw(self, rng: np.random.Generator, variety: Variety) -> Layout:
        """Two receptacles where there is room; the swapped goal is then another receptacle, else another object."""
        count = min(2, SLOTS - variety.objects)
        scene = sample_varied_scene(rng, variety.objects, count, variety.sizes)
        swapped = (0, len(scene) - 1) if count == 2 else (1, variety.objects)
        return Layout(scene, (Goal(self.name, 0, variety.objects), Goal(self.name, *swapped)))

    def supports(self, scene: Scene) -> list[int]:
        return [i for i, o in enumerate(scene) if not o.movable]

    def rests(self, table: Table, goal: Goal) -> bool:
        assert goal.reference is not None
        inside = table.scene[goal.reference].half_width - WALL
        offset = (table.position(goal.target) - table.position(goal.reference))[:2]
        return bool(np.hypot(*offset) <= inside) and table.lift(goal.target) - top(table, goal.reference) < LEVEL


class Stack(Place):
    """Success: for HOLD_STEPS steps the target stands on the reference and is not grasped: its middle is over the reference, which
    is upright, and its underside within LEVEL of the reference's top; no other stack stood before."""

    name = "stack"
    wordings = (
        "stack the {target} on the {reference}",
        "stack the {target} onto the {reference}",
        "put the {target} on top of the {reference}",
        "place the {target} on top of the {reference}",
        "set the {target} on top of the {reference}",
    )

    def draw(self, rng: np.random.Generator, variety: Variety) -> Layout:
        """With a distractor the swapped goal is another object on the same one or the same one on another, else the other way round."""
        scene = sample_varied_scene(rng, variety.objects, sizes=variety.sizes)
        swapped = (1, 0) if variety.objects == 2 else (2, 1) if rng.random() < 0.5 else (0, 2)
        return Layout(scene, (Goal(self.name, 0, 1), Goal(self.name, *swapped)))

    def supports(self, scene: Scene) -> list[int]:
        return list(range(len(scene)))

    def rests(self, table: Table, goal: Goal) -> bool:
        assert goal.reference is not None
        offset = (table.position(goal.target) - table.position(goal.reference))[:2]
        over = float(np.hypot(*offset)) < table.scene[goal.reference].half_width
        level = abs(table.lift(goal.target) - top(table, goal.reference)) < LEVEL
        return over and level and table.upright(goal.reference)
