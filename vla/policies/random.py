"""A policy with random actions: the baseline that every evaluation should show."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from vla.contract import Embodiment, PolicyContract
from vla.observation import ActionChunk, Observation


class RandomPolicy:
    """Draws each action uniformly from the action space, except for constant dimensions.

    An action is a function of the stream's name (in a rollout, the episode's) and the step. Images are not used.
    """

    sees = False

    def __init__(self, embodiments: dict[str, Embodiment]):
        self.contract = PolicyContract(embodiments, chunk=1, execute=1, plan=(), terminate=False, title="random")
        self._steps: dict[str, int] = {}

    def reset(self, ids: Sequence[str]) -> None:
        for stream in ids:
            self._steps.pop(stream, None)

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        return [self._draw(observation) for observation in observations]

    def _draw(self, observation: Observation) -> ActionChunk:
        step = self._steps[observation.id] = self._steps.get(observation.id, -1) + 1
        seed = int.from_bytes(hashlib.sha256(observation.id.encode()).digest()[:8])
        space = self.contract.embodiment(observation.embodiment).action
        action = np.random.default_rng((seed, step)).uniform(space.low, space.high)
        for dimension, value in enumerate(space.constant):
            if value is not None:
                action[dimension] = value
        return ActionChunk(action[None], np.zeros(1, bool))
