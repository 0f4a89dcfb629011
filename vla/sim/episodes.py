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
"""Sentences without a meaning, which ask for nothing."""


@dataclasses.dataclass(frozen=True)
class Episode:
    """One episode to run.

    Attributes:
        seed: of the scene and the start; equal seeds are equal scenes whatever the instruction.
        kind: whether the instruction asks for the drawn goal or for the swapped one, is empty, or has no meaning.
        instruction: a sentence of the user's instead. The tabletop puts the objects that it names into the scene.
        video: whether frames of the cameras are recorded.
        horizon: steps until it is given up; 0 is the task's.
        task: its name.
        variation: how its scene differs from those of training; of the class that the task's simulator reads.
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
        instruction = f"“{self.instruction}”" if self.instruction else f"{self.kind} instruction"
        return f"{self.task} / {self.variation.name}, seed {self.seed}, {instruction}"


@dataclasses.dataclass
class Result:
    """How an episode went.

    Attributes:
        target, first: what should be done and what was done first, in short: for lifting, the object ("" is none).
        failure: "" for success, else its class.
        state: SHA-256 of the initial state and of what the variation changed.
        malformed: how many answers of the policy were no whole chunk; the robot rested for a step each time.
        restarts: why workers failed in it before it went through; it began anew each time.
        frames: recorded images, uint8 [side, 2 * side, 3]: both cameras beside each other.
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
