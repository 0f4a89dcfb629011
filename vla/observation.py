"""What a robot sees at one control step, and the actions that answer it. Numpy only: workers and clients import this module."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass
class Observation:
    """What one stream (an environment slot or a client) sees at one control step.

    Attributes:
        id: names the stream; a policy keeps its state per id.
        images: camera name -> upright RGB picture, uint8 [H, W, 3].
        state: proprioception in the contract's order and units, float [S].
        instruction: what the robot is told, free text.
        embodiment: which of the contract's embodiments this is; "" is the contract's default.
        plan: what the robot is to follow, as `ActionChunk.plan` has it; empty lets the policy plan by itself.
    """

    id: str
    images: dict[str, np.ndarray]
    state: np.ndarray
    instruction: str
    embodiment: str = ""
    plan: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class ActionChunk:
    """The next actions of one stream.

    Attributes:
        actions: [T, A], in the contract's order and physical units.
        terminate: [T] bool, True where the policy says that the task is done.
        info: whatever the policy adds (its plan, valid mass, timings).
        status: "" for actions that the policy means; else what is wrong with its answer, and T is 0: what the robot does then is
            for the caller to say (`RecedingHorizon` rests).
    """

    actions: np.ndarray
    terminate: np.ndarray
    info: dict[str, Any] = dataclasses.field(default_factory=dict)
    status: str = ""

    @property
    def plan(self) -> dict[str, Any]:
        """What the policy wrote before the actions, of `info`: `words`, `point`, `reach`."""
        return {part: self.info[part] for part in ("words", "point", "reach") if part in self.info}
