"""What a task is: scenes with goals, their wordings, and when a goal is reached. Success is defined by tasks and nowhere else."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar, Protocol

import numpy as np

from vla.errors import UserError
from vla.sim.tabletop.scene import FLAT, SHAPES, UNSEEN_SHAPES, Scene
from vla.sim.tabletop.variation import BLANKS, SEEN, TOLD_BY, TabletopVariation, open_in

HOLD_STEPS = 10
"""A goal counts as reached after its condition has held for this many consecutive steps."""


class Table(Protocol):
    """What tasks need to know of a simulated table; places are metres from the middle of its top."""

    scene: Scene

    def position(self, index: int) -> np.ndarray: ...
    def lift(self, index: int) -> float: ...
    def grasped(self, index: int) -> bool: ...
    def touched(self, index: int) -> bool: ...
    def upright(self, index: int) -> bool: ...


@dataclasses.dataclass(frozen=True)
class Goal:
    """What an instruction asks for.

    Attributes:
        task: its name.
        target: index in the scene of the object to act on.
        reference: index of the object or receptacle that says where to; None where the task needs none.
        side: "left", "right" or "front" as the front camera sees it; "" where the task needs none.
    """

    task: str
    target: int
    reference: int | None = None
    side: str = ""


@dataclasses.dataclass(frozen=True)
class Layout:
    """A scene and its goals: the correct one, then the swapped one, both within the expert's range."""

    scene: Scene
    goals: tuple[Goal, Goal]


class Task(abc.ABC):
    """A family of goals. Implementations hold no state.

    Attributes:
        name: the value of `--task`.
        wordings: all sentences, with the blank {name} and, where needed, {reference}, {side} and {where}.
        horizon: steps until an episode is given up.
        shapes: shapes of the objects that it draws.
        others: further shapes that a variation may have.
        told_by: the values of `TabletopVariation.told_by` that it supports.
        parts: names of tasks whose goals are reached on the way to this one's: where this task is asked for, they are not others.
        carries: whether an object is taken up for it. Where it is not, an object that was carried does not reach its goals.
    """

    name: ClassVar[str]
    wordings: ClassVar[tuple[str, ...]]
    horizon: ClassVar[int]
    shapes: ClassVar[tuple[str, ...]] = tuple(SHAPES)
    others: ClassVar[tuple[str, ...]] = (*UNSEEN_SHAPES, *FLAT)
    told_by: ClassVar[tuple[str, ...]] = TOLD_BY
    parts: ClassVar[tuple[str, ...]] = ()
    carries: ClassVar[bool] = True

    @abc.abstractmethod
    def draw(self, rng: np.random.Generator, count: int, variation: TabletopVariation = SEEN) -> Layout:
        """A scene with two goals; the same generator state gives the same.

        Args:
            count: movable objects, two or three, as for `draw_scene`.
        """

    @abc.abstractmethod
    def candidates(self, scene: Scene, goal: Goal | None) -> list[Goal]:
        """Every goal that counts when it is reached first; `goal` is the one asked for, None where nothing was said.

        Of two that are reached in the same step the earlier one decides, after the one asked for.
        """

    def sayable(self, scene: Scene) -> list[Goal]:
        """Every goal that a sentence can name in the scene."""
        return self.candidates(scene, None)

    def open_goals(self, scene: Scene) -> list[Goal]:
        """Every goal that a sentence can name in the scene and that is not reached where things stand at the start."""
        return self.sayable(scene)

    @abc.abstractmethod
    def holds(self, table: Table, goal: Goal) -> bool:
        """Whether the goal's condition holds in the present state."""

    @abc.abstractmethod
    def begun(self, table: Table, index: int) -> bool:
        """Whether what the task asks for has visibly begun with object `index`."""

    def spoils(self, table: Table, index: int) -> bool:
        """Whether what was done to object `index`, not the one asked for, keeps the episode from being a success."""
        return False

    def disturbed(self, table: Table, index: int) -> bool:
        """Whether object `index` is about to be moved: an excursion in a demonstration ends here."""
        return table.lift(index) > 0.025

    def fitting(self, scene: Scene, goal: Goal) -> tuple[str, ...]:
        """The wordings that can say the goal."""
        return self.wordings

    def instruct(self, scene: Scene, goal: Goal, rng: np.random.Generator, variation: TabletopVariation = SEEN) -> str:
        """One of the wordings that can say the goal, with the objects' names in it."""
        reference = "" if goal.reference is None else variation.noun(scene[goal.reference].name)
        fitting = self.fitting(scene, goal)
        blanks = {frozenset(open_in(wording)) for wording in fitting}
        wording = str(rng.choice([w for w in variation.wordings if frozenset(open_in(w)) in blanks] or fitting))
        name = variation.tell(scene, goal.target, rng)
        return wording.format(name=name, reference=reference, side=goal.side, where=PHRASES.get(goal.side, ""))

    def check(self, variation: TabletopVariation, where: str) -> None:
        """Raises UserError if the task cannot have what the variation asks for."""
        for name in variation.objects:
            if name.split()[-1] not in self.shapes + self.others:
                raise UserError(
                    f"{self.name} cannot have a {name}", where, f"it can have: {', '.join(self.shapes + self.others)}"
                )
        if variation.told_by not in self.told_by:
            raise UserError(
                f"the objects of {self.name} cannot be told by their {variation.told_by}", where, "leave out `told_by`"
            )
        missing = {frozenset(open_in(w)) for w in self.wordings} - {frozenset(open_in(w)) for w in variation.wordings}
        if variation.wordings and missing:
            blanks = " or ".join(sorted(" ".join(f"{{{b}}}" for b in BLANKS if b in one) for one in missing))
            raise UserError(f"no wording for what {self.name} has to say", where, f"add one with {blanks}")


PHRASES = {"left": "to the left of", "right": "to the right of", "front": "in front of"}
"""How a side of something is said."""


def describe(scene: Scene, goal: Goal) -> str:
    """A goal in short: "red cube", "red cube to the left", "red cube on blue tray"; different goals of a scene are different."""
    name = scene[goal.target].name
    if goal.reference is None:
        return f"{name} to the {goal.side}" if goal.side else name
    return f"{name} {PHRASES.get(goal.side, 'on')} {scene[goal.reference].name}"
