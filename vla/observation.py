"""Observations of a robot and the action chunks that answer them. Imports numpy only, for workers and clients."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass
class Observation:
    """What one stream (an environment slot or a client) observes at one control step.

    Attributes:
        id: name of the stream; a policy keeps its state per id.
        images: camera name -> upright RGB image, uint8 [H, W, 3].
        state: proprioception in the contract's order and units, float [S].
        instruction: the instruction to the robot, free text.
        embodiment: name of the embodiment in the contract; "" is the contract's default.
        plan: the plan to follow, in the form of `ActionChunk.plan`; if it is empty, the policy plans by itself.
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
        terminate: bool [T], True where the policy considers the task done.
        info: additions of the policy (its plan, valid mass, timings).
        status: "" if the actions are valid. Otherwise what is wrong with the policy's answer, and T is 0: the caller decides
            what the robot does (`RecedingHorizon` makes it rest).
    """

    actions: np.ndarray
    terminate: np.ndarray
    info: dict[str, Any] = dataclasses.field(default_factory=dict)
    status: str = ""

    @property
    def plan(self) -> dict[str, Any]:
        """The plan that the policy wrote before the actions: `words`, `point`, `reach` of `info`."""
        return {part: self.info[part] for part in ("words", "point", "reach") if part in self.info}
