"""An episode of any simulator, and how it went. What happens in it is a function of its description and the policy alone."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

from vla.sim.variation import SEEN, Variation

Kind = Literal["correct", "swapped", "empty", "nonsense"]
KINDS: tuple[Kind, ...] = ("correct", "swapped", "empty", "nonsense")
NONSENSE = (
    "flib the mardy zorp",
    "wug a plonk dax",
    "tove the brillig gimble",
    "snark up the vorpal rath",
    "quell the blicket fep",
)
"""Sentences without a meaning: what is done under them was not asked for."""


@dataclasses.dataclass(frozen=True)
class Episode:
    """One episode to run.

    Attributes:
        seed: of the scene and the start; equal seeds are equal scenes whatever the instruction.
        kind: whether the drawn goal is asked for, the swapped one, or nothing is said, or nothing that means anything.
        instruction: a sentence of the user's instead; the objects that it names (if any) are put into the scene.
        video: whether frames of both cameras are recorded.
        horizon: steps until it is given up; 0 is the task's.
        task: its name.
        variation: what differs from training's scenes.
    """

    seed: int
    kind: Kind = "correct"
    instruction: str = ""
    video: bool = False
    horizon: int = 0
    task: str = "lift"
    variation: Variation = SEEN

    @property
    def id(self) -> str:
        """Names the episode, and its stream to the policy: no two of a suite have the same."""
        return "/".join([self.task, self.variation.name, str(self.seed), self.instruction or self.kind])

    def __str__(self) -> str:
        said = f"“{self.instruction}”" if self.instruction else f"{self.kind} instruction"
        return f"{self.task} / {self.variation.name}, seed {self.seed}, {said}"


@dataclasses.dataclass
class Result:
    """How an episode went.

    Attributes:
        target, first: what should be done and what was done first, as `describe` says it: for lifting, the object ("" is none).
        failure: "" for success, else its class.
        state: hash of the initial state and of what the variation changed.
        malformed: how many answers of the policy were no whole chunk; the robot rested for a step each time.
        restarts: why workers failed in it before it went through; it began anew each time.
        frames: recorded pictures [side, 2 * side, 3], front and wrist.
        actions: for each frame but the first, the action that led to it.
    """

    seed: int
    kind: str
    instruction: str
    objects: list[str]
    target: str
    first: str
    failure: str
    steps: int
    executed: bool
    seconds: float
    task: str = "lift"
    variation: str = "seen"
    state: str = ""
    malformed: int = 0
    restarts: list[str] = dataclasses.field(default_factory=list)
    frames: list[np.ndarray] = dataclasses.field(default_factory=list, repr=False)
    actions: list[np.ndarray] = dataclasses.field(default_factory=list, repr=False)

    @property
    def success(self) -> bool:
        return self.failure == ""

    def to_dict(self) -> dict[str, Any]:
        record = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("frames", "actions")}
        return {**record, "success": self.success}
