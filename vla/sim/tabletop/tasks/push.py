"""Push X to a side of the table, or to a side of Y."""

from __future__ import annotations

import numpy as np

from vla.sim.tabletop.scene import FLAT, Scene
from vla.sim.tabletop.tasks.base import Goal, Layout, Table, Task
from vla.sim.tabletop.variation import SEEN, TabletopVariation, draw_scene

SIDES = {"left": (0.0, -1.0), "right": (0.0, 1.0), "front": (1.0, 0.0)}
"""Directions (x, y) on the table as the front camera sees them: the front is nearest to it."""
EDGE = 0.1
"""How far (m) from the table's middle a side begins."""
GAP, LATERAL = (0.04, 0.14), 0.045
"""How far (m) the target is beside its reference, to the side and across."""
MOVED, STAYED = 0.04, 0.03
"""An object has been pushed when it is farther (m) from where it stood; a reference must be nearer to it."""
BESIDE, BEYOND = 0.09, 0.02
"""Where a push aims: that far (m) from the reference's middle, or past the edge."""
SHORTEST, ASKEW = 0.07, 0.35
"""The shortest push (m) and the largest angle (rad) to the table's axes that is asked for."""
WIDE = 0.026
"""Half the width (m) of an object that the clear paths allow for; beside a receptacle they are farther from its middle."""
ROOM = np.array([(-0.2, -0.25), (0.22, 0.25)])
"""Where the gripper works (m)."""


class Push(Task):
    """Success: for HOLD_STEPS steps the target is where it should be, more than MOVED from where it stood, flat on the
    table (not on a receptacle) and not touched by the robot; no other object was pushed before. Where it should be: past EDGE
    on a side of the table, or beside the reference (GAP to the side, LATERAL across), which has stayed.
    """

    name = "push"
    wordings = (
        "push the {name} to the {side}",
        "slide the {name} to the {side}",
        "move the {name} to the {side}",
        "push the {name} towards the {side}",
        "shove the {name} to the {side}",
        "push the {name} {where} the {reference}",
        "slide the {name} {where} the {reference}",
        "move the {name} {where} the {reference}",
        "bring the {name} {where} the {reference}",
        "shove the {name} {where} the {reference}",
    )
    horizon = 120
    shapes, others = tuple(FLAT), ("cube",)
    told_by = ("", "colour")
    carries = False

    def fitting(self, scene: Scene, goal: Goal) -> tuple[str, ...]:
        return self.wordings[:5] if goal.reference is None else self.wordings[5:]

    def draw(self, rng: np.random.Generator, count: int, variation: TabletopVariation = SEEN) -> Layout:
        """Draws two goals of one form with a clear path each; they share the target, or the side, or the reference.

        With two objects alone there are never two clear paths relative to each other, so a distractor is needed for that.
        """
        relation = bool(rng.random() < 0.75) and count + variation.distractors > 2
        wanted = str(rng.choice(list(SIDES)))
        while True:
            scene = draw_scene(rng, count, variation, shapes=self.shapes)
            goals = self.feasible(scene, relation)
            for first in (g for g in goals if g.side == wanted):
                if swapped := self.swapped(rng, first, goals):
                    return Layout(scene, (first, swapped))

    def feasible(self, scene: Scene, relation: bool) -> list[Goal]:
        """Every goal with a clear path: beside another object if `relation`, else at a side of the table."""
        order = _movable(scene)
        return [
            Goal(self.name, i, j, side)
            for side in SIDES
            for i in order
            for j in (order if relation else (None,))
            if i != j and _feasible(scene, Goal(self.name, i, j, side))
        ]

    def swapped(self, rng: np.random.Generator, first: Goal, goals: list[Goal]) -> Goal | None:
        """Draws from `goals`, all of one form, one that shares the target, the side or the reference with the first."""
        most = 2 if first.reference is None else 3
        others = [goal for goal in goals if 0 < _differences(first, goal) < most]
        return others[rng.integers(len(others))] if others else None

    def candidates(self, scene: Scene, goal: Goal | None) -> list[Goal]:
        """Every object at every side of the table, or of every other object if the goal has a reference; last, any other object
        pushed anywhere."""
        order = _movable(scene)
        others = [Goal(self.name, i) for i in order if goal is None or i != goal.target]
        if goal is None:
            return others
        references = (None,) if goal.reference is None else order
        sided = [Goal(self.name, i, j, side) for i in order for j in references if i != j for side in SIDES]
        return _ahead(scene, sided) + others

    def sayable(self, scene: Scene) -> list[Goal]:
        order = _movable(scene)
        return [Goal(self.name, i, j, side) for i in order for j in (None, *order) if i != j for side in SIDES]

    def open_goals(self, scene: Scene) -> list[Goal]:
        return _ahead(scene, self.sayable(scene))

    def holds(self, table: Table, goal: Goal) -> bool:
        i, j = goal.target, goal.reference
        if _displacement(table, i) <= MOVED or abs(table.lift(i)) > 0.01 or _on_a_receptacle(table, i) or table.touched(i):
            return False
        return not goal.side or (
            _beside(table.position(i), goal.side, None if j is None else table.position(j)) and self._stayed(table, j)
        )

    def reached(self, table: Table, goal: Goal, within: float) -> bool:
        """Whether the target is where it should be by `within` (m) more than need be, touched or not: time to stop pushing."""
        reference = None if goal.reference is None else table.position(goal.reference)
        return _displacement(table, goal.target) > MOVED and _beside(table.position(goal.target), goal.side, reference, within)

    def begun(self, table: Table, index: int) -> bool:
        return _displacement(table, index) > MOVED / 2

    def disturbed(self, table: Table, index: int) -> bool:
        return _displacement(table, index) > 0.01

    @staticmethod
    def _stayed(table: Table, index: int | None) -> bool:
        return index is None or _displacement(table, index) < STAYED


def aim(goal: Goal, target: np.ndarray, reference: np.ndarray | None) -> np.ndarray:
    """The place [2] to which the target at `target` is pushed."""
    side = np.array(SIDES[goal.side])
    if reference is not None:
        return reference[:2] + BESIDE * side
    return target[:2] + max(EDGE + BEYOND - float(target[:2] @ side), 0.0) * side


def straddles(direction: np.ndarray) -> bool:
    """Whether a push in a direction [2] is one between the open fingers, which are side by side from left to right, or from
    behind."""
    return bool(abs(direction[1]) >= abs(direction[0]))


def _movable(scene: Scene) -> list[int]:
    return [i for i, item in enumerate(scene) if item.movable]


def _ahead(scene: Scene, goals: list[Goal]) -> list[Goal]:
    """The goals, each with a side, where the target does not stand from the first: it was not pushed there."""

    def reference(goal: Goal) -> np.ndarray | None:
        return None if goal.reference is None else _place(scene, goal.reference)

    return [goal for goal in goals if not _beside(_place(scene, goal.target), goal.side, reference(goal))]


def _place(scene: Scene, index: int) -> np.ndarray:
    return np.array((scene[index].x, scene[index].y))


def _displacement(table: Table, index: int) -> float:
    return float(np.hypot(*(table.position(index)[:2] - _place(table.scene, index))))


def _on_a_receptacle(table: Table, index: int) -> bool:
    place, receptacles = table.position(index)[:2], [j for j, item in enumerate(table.scene) if not item.movable]
    return any(np.hypot(*(place - table.position(j)[:2])) <= table.scene[j].half_width for j in receptacles)


def _beside(place: np.ndarray, side: str, reference: np.ndarray | None, within: float = 0.0) -> bool:
    """Whether a place is past the edge on a side, or beside a reference; by `within` more than just so."""
    direction = np.array(SIDES[side])
    if reference is None:
        return bool(place[:2] @ direction >= EDGE + within)
    offset = place[:2] - reference[:2]
    along = float(offset @ direction)
    across = float(np.hypot(*(offset - along * direction)))
    return GAP[0] + within <= along <= GAP[1] - within and across <= LATERAL - within


def _differences(one: Goal, other: Goal) -> int:
    return (one.target != other.target) + (one.side != other.side) + (one.reference != other.reference)


def _feasible(scene: Scene, goal: Goal) -> bool:
    """Whether the push is long enough, straight, and nothing is in its way."""
    start = _place(scene, goal.target)
    end = aim(goal, start, None if goal.reference is None else _place(scene, goal.reference))
    way = end - start
    length = float(np.hypot(*way))
    if length < SHORTEST or not _visible(end):
        return False
    direction = way / length
    # A push far off both axes would turn a cube, and one towards the robot is under its hand.
    if max(abs(direction[1]), direction[0]) < np.cos(ASKEW):
        return False
    # The hand is wide along the fingers' line and reaches down over what is high.
    astride = straddles(direction)
    behind, ahead, beside = (0.06, 0.06, 0.08) if astride else (0.09, 0.0, 0.08)
    first = start - behind * direction
    if (first < ROOM[0]).any() or (first > ROOM[1]).any():
        return False
    for i, other in enumerate(scene):
        if i != goal.target:
            offset = _place(scene, i) - first
            nearest = np.clip(offset @ direction, 0, length + behind + ahead) * direction
            clear = 0.125 if other.half_height > 0.02 and not astride else beside
            clear += 0.0 if other.movable else other.half_width - WIDE
            if np.hypot(*(offset - nearest)) < clear:
                return False
    return True


def _visible(place: np.ndarray) -> bool:
    """Whether the front camera sees an object at the place."""
    return bool(-0.13 <= place[0] <= 0.15 and abs(place[1]) <= 0.18)
