"""An episode of any simulator, and how it went. What happens in it is a function of its description and the policy alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from vla.contract import Camera
from vla.report.records import EpisodeRecord, Key, episode_key
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
        cameras: as the policy's contract says them, for a simulator that adapts its pictures; () are the simulator's own.
    """

    seed: int
    kind: Kind = "correct"
    instruction: str = ""
    video: bool = False
    horizon: int = 0
    task: str = "lift"
    variation: Variation = SEEN
    cameras: tuple[Camera, ...] = ()

    @property
    def key(self) -> Key:
        """Names the episode in a record."""
        return episode_key(self.task, self.variation.name, self.seed, self.kind)

    @property
    def id(self) -> str:
        """Names the episode, and its stream to the policy: no two of a suite have the same."""
        return "/".join([self.task, self.variation.name, str(self.seed), self.instruction or self.kind])

    def __str__(self) -> str:
        instruction = f"“{self.instruction}”" if self.instruction else f"{self.kind} instruction"
        return f"{self.task} / {self.variation.name}, seed {self.seed}, {instruction}"


@dataclasses.dataclass(frozen=True)
class Result(EpisodeRecord):
    """How an episode went: its line of the record and, where it is filmed, its film. `Result.of` makes one.

    Attributes:
        frames: recorded images, uint8 [side, 2 * side, 3]: both cameras beside each other.
        actions: for each frame but the first, the action that led to it.
    """

    frames: list[np.ndarray] = dataclasses.field(default_factory=list, repr=False, compare=False)
    actions: list[np.ndarray] = dataclasses.field(default_factory=list, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        episode: Episode,
        instruction: str,
        state: str,
        steps: int,
        failure: str,
        executed: bool,
        target: str = "",
        first: str = "",
        objects: Sequence[str] = (),
        seconds: float = 0.0,
        frames: Sequence[np.ndarray] = (),
        actions: Sequence[np.ndarray] = (),
        other_tasks: Sequence[str] | None = None,
    ) -> Result:
        """The result of an episode.

        Args:
            instruction: what the robot was told.
            state: SHA-256 of the initial state and of what the variation changed.
            failure: "" for success, else its class.
            executed: whether something was done, the right thing or another.
            target, first: what should be done and what was done first, in short: for lifting, the object ("" is none).
            objects: what was there, for people.
            other_tasks: other tasks' goals that were reached, as "task: goal in short"; None where they are not looked for.
            seconds: that it took.
        """
        # `Rollout` fills in the last ones.
        more = {"objects": list(objects), "target": target, "first": first, "executed": executed, "malformed": 0}
        more |= {} if other_tasks is None else {"other_tasks": list(other_tasks)}
        more |= {"seconds": seconds, "restarts": []}
        named = (*episode.key, instruction, state, not failure, steps, failure)
        return cls(*named, more, list(frames), list(actions))
