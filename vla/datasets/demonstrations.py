"""Whole demonstrations, in order: what an offline evaluation replays."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

import numpy as np

from vla.datasets.samples import Images


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """An uninterrupted part of an episode: T steps.

    Attributes:
        episode: number of the episode in the data set.
        first: step of the episode at which the part begins; 0 unless steps are missing before it.
        action: float32 [T, A], in the card's units.
        state: float32 [T, S].
        instruction: T instructions.
        embodiment: name of the robot.
        images: step (0 to T - 1) -> camera name -> upright RGB, uint8 [H, W, 3]; raises Unreadable for a damaged one.
    """

    episode: int
    first: int
    action: np.ndarray
    state: np.ndarray
    instruction: list[str]
    embodiment: str
    images: Callable[[int], Images]

    def __len__(self) -> int:
        return len(self.action)

    def __str__(self) -> str:
        return f"episode {self.episode}" + (f" from step {self.first}" if self.first else "")

    @property
    def fingerprint(self) -> str:
        """Hash of states and actions: equal demonstrations of two evaluations have equal ones."""
        return hashlib.sha256(self.state.tobytes() + self.action.tobytes()).hexdigest()[:16]
