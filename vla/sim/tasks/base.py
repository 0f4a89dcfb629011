"""What a task is: scenes with goals, their wordings, and when a goal is reached. Success is defined by tasks and nowhere else."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar, Protocol

import numpy as np

from vla.sim.scene import Scene

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
    """A scene and what can be asked of it: first the correct goal, then the swapped one, each within the expert's reach."""

    scene: Scene
    goals: tuple[Goal, Goal]


@dataclasses.dataclass(frozen=True)
class Variety:
    """How scenes vary.

    Attributes:
        objects: movable objects; those beyond the first two are distractors.
        sizes: whether objects are small or large, and are named so.
    """

    objects: int = 2
    sizes: bool = False


class Task(abc.ABC):
    """A family of goals. Implementations hold no state.

    Attributes:
        name: as it is chosen by.
        wordings: every sentence, with {target} and, where needed, {reference}, {side} and {where} left open.
        horizon: steps until an episode is given up.
    """

    name: ClassVar[str]
    wordings: ClassVar[tuple[str, ...]]
    horizon: ClassVar[int]

    @abc.abstractmethod
    def draw(self, rng: np.random.Generator, variety: Variety) -> Layout:
        """A scene with two goals; the same generator state gives the same."""

    @abc.abstractmethod
    def candidates(self, scene: Scene, goal: Goal | None) -> list[Goal]:
        """Every goal that counts when it is reached first; `goal` is the one asked for, None where nothing was said."""

    @abc.abstractmethod
    def holds(self, table: Table, goal: Goal) -> bool:
        """Whether the goal's condition holds in the present state."""

    @abc.abstractmethod
    def begun(self, table: Table, index: int) -> bool:
        """Whether what the task asks for has visibly begun with object `index`."""

    def disturbed(self, table: Table, index: int) -> bool:
        """Whether object `index` is about to be moved: an excursion in a demonstration ends here."""
        return table.lift(index) > 0.025

    def fitting(self, goal: Goal) -> tuple[str, ...]:
        """The wordings that can say the goal."""
        return self.wordings

    def instruct(self, scene: Scene, goal: Goal, rng: np.random.Generator) -> str:
        """One of the wordings that can say the goal, with the objects' names in it."""
        reference = "" if goal.reference is None else scene[goal.reference].name
        said = str(rng.choice(self.fitting(goal)))
        return said.format(target=scene[goal.target].name, reference=reference, side=goal.side, where=PHRASES.get(goal.side, ""))


PHRASES = {"left": "to the left of", "right": "to the right of", "front": "in front of"}
"""How a side of something is said."""
