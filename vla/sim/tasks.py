"""The lifting task: its instructions, and what counts as success, execution and failure. Success is defined here and nowhere else."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from vla.errors import UserError
from vla.sim.scene import COLOURS, SHAPES, Scene

LIFTED, HOLD_STEPS = 0.05, 10
"""An object is up when its underside is this far (m) above the table; it counts after this many consecutive steps."""
HORIZON = 80

INSTRUCTIONS = (
    "lift the {name}",
    "pick up the {name}",
    "raise the {name}",
    "grab the {name}",
    "take the {name}",
    "lift up the {name}",
    "pick the {name} up",
)
TASKS = ("lift",)


class LiftsObjects(Protocol):
    """What the outcome needs to know of a simulated table."""

    scene: Scene

    def lift(self, index: int) -> float: ...


def check_task(name: str) -> str:
    """The name itself, or a UserError that lists the known tasks."""
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}", fix=f"one of: {', '.join(TASKS)}")
    return name


def instruct(name: str, rng: np.random.Generator) -> str:
    """One of the wordings, with the object's name in it."""
    return str(rng.choice(INSTRUCTIONS)).format(name=name)


def named_object(instruction: str) -> str | None:
    """The object ("red cube") that an instruction names, or None."""
    words = instruction.lower().replace(".", " ").split()
    for colour, shape in zip(words, words[1:], strict=False):
        if colour in COLOURS and shape in SHAPES:
            return f"{colour} {shape}"
    return None


@dataclasses.dataclass
class Outcome:
    """How an episode stands. Update once per step; it is over when `failure` is not None.

    Attributes:
        target: index of the object that should be lifted; None where the instruction names none (control episodes).
        first: index of the object that was up first, for HOLD_STEPS steps; None while there is none.
        failure: "" for success, else "wrong object", "terminated early", "dropped", "timeout" or "nothing grasped".
    """

    target: int | None
    horizon: int = HORIZON
    first: int | None = None
    failure: str | None = None
    steps: int = 0
    touched: bool = False
    _up: dict[int, int] = dataclasses.field(default_factory=dict)

    @property
    def success(self) -> bool:
        return self.failure == ""

    @property
    def executed(self) -> bool:
        """Some object was held up."""
        return self.first is not None

    @property
    def over(self) -> bool:
        return self.failure is not None

    def update(self, table: LiftsObjects, terminate: bool = False) -> None:
        """Takes note of the state after a step; `terminate` says that the policy declared the task done."""
        self.steps += 1
        for index in range(len(table.scene)):
            self._up[index] = self._up.get(index, 0) + 1 if table.lift(index) >= LIFTED else 0
            self.touched |= self._up[index] > 0
            if self._up[index] >= HOLD_STEPS and self.first is None:
                self.first = index
        if self.first is not None:
            self.failure = "" if self.first == self.target else "wrong object"
        elif terminate:
            self.failure = "terminated early"
        elif self.steps >= self.horizon:
            held = any(self._up.values())
            self.failure = "timeout" if held else "dropped" if self.touched else "nothing grasped"
