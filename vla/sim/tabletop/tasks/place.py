"""Put X into or onto a receptacle; stack X on another object."""

from __future__ import annotations

import abc

import numpy as np

from vla.sim.tabletop.scene import FLAT, FLOOR, SLOTS, WALL, Scene
from vla.sim.tabletop.tasks.base import Goal, Layout, Table, Task
from vla.sim.tabletop.variation import SEEN, TabletopVariation, draw_scene

PICKED = 0.03
"""An object that is grasped has been picked up when its underside is this far (m) above the table."""
LEVEL = 0.005
"""Largest height (m) between a placed object's underside and what it stands on: what is let go of there falls no farther."""


class Place(Task):
    """A task whose target ends on its reference, and let go of."""

    horizon = 120
    parts = ("lift",)

    @abc.abstractmethod
    def rests(self, table: Table, goal: Goal) -> bool:
        """Whether the target is where it belongs, whoever holds it there."""

    def holds(self, table: Table, goal: Goal) -> bool:
        return self.rests(table, goal) and not table.grasped(goal.target)

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
    return table.lift(index) + (FLOOR if item.shape == "tray" else 2 * item.half_height)


class Put(Place):
    """Success: for HOLD_STEPS steps the target is not grasped, its middle is over the receptacle's inside and at most LEVEL
    higher than if it stood there (it may lie on its side); no other object was put into a receptacle before."""

    name = "put"
    wordings = (
        "put the {name} into the {reference}",
        "place the {name} in the {reference}",
        "move the {name} into the {reference}",
        "drop the {name} in the {reference}",
        "set the {name} into the {reference}",
        "put the {name} onto the {reference}",
        "place the {name} on the {reference}",
        "move the {name} onto the {reference}",
        "lay the {name} on the {reference}",
        "set the {name} onto the {reference}",
    )

    def fitting(self, scene: Scene, goal: Goal) -> tuple[str, ...]:
        # One goes into a tray and onto a plate.
        assert goal.reference is not None
        return self.wordings[:5] if scene[goal.reference].shape == "tray" else self.wordings[5:]

    def draw(self, rng: np.random.Generator, count: int, variation: TabletopVariation = SEEN) -> Layout:
        """Two receptacles where there is room; the swapped goal is then another receptacle, else another object."""
        receptacles = max(1, min(2, SLOTS - count - variation.distractors))
        scene = draw_scene(rng, count, variation, receptacles)
        first = len(scene) - receptacles
        swapped = (0, first + 1) if receptacles == 2 else (1, first)
        return Layout(scene, (Goal(self.name, 0, first), Goal(self.name, *swapped)))

    def supports(self, scene: Scene) -> list[int]:
        return [i for i, o in enumerate(scene) if not o.movable]

    def rests(self, table: Table, goal: Goal) -> bool:
        assert goal.reference is not None
        inside = table.scene[goal.reference].half_width - WALL
        offset = (table.position(goal.target) - table.position(goal.reference))[:2]
        return bool(np.hypot(*offset) <= inside) and table.lift(goal.target) - top(table, goal.reference) < LEVEL


class Stack(Place):
    """Success: for HOLD_STEPS steps the target stands on the reference and is not grasped: its middle is over the reference,
    which is upright, and its underside within LEVEL of the reference's top; no other stack stood before."""

    name = "stack"
    wordings = (
        "stack the {name} on the {reference}",
        "stack the {name} onto the {reference}",
        "put the {name} on top of the {reference}",
        "place the {name} on top of the {reference}",
        "set the {name} on top of the {reference}",
    )
    # Nothing stands on a ball.
    others = ("drum", *FLAT)
    told_by = ("", "colour")

    def draw(self, rng: np.random.Generator, count: int, variation: TabletopVariation = SEEN) -> Layout:
        """With a distractor the swapped goal is another object on the same one or the same one on another, else the other way
        round."""
        scene = draw_scene(rng, count, variation)
        swapped = (1, 0) if len(scene) == 2 else (2, 1) if rng.random() < 0.5 else (0, 2)
        return Layout(scene, (Goal(self.name, 0, 1), Goal(self.name, *swapped)))

    def supports(self, scene: Scene) -> list[int]:
        return [i for i, o in enumerate(scene) if o.movable]

    def rests(self, table: Table, goal: Goal) -> bool:
        assert goal.reference is not None
        offset = (table.position(goal.target) - table.position(goal.reference))[:2]
        over = float(np.hypot(*offset)) < table.scene[goal.reference].half_width
        level = abs(table.lift(goal.target) - top(table, goal.reference)) < LEVEL
        return over and level and table.upright(goal.reference)
