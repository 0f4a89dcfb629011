"""The language tabletop as an environment for RL heads, with the goal in the state and actions from -1 to 1. Imports no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from vla.promptable.actions import ActionScaler
from vla.sim.tabletop.embodiment import EMBODIMENT
from vla.sim.tabletop.gym import TabletopEnv
from vla.sim.tabletop.questions import visible
from vla.sim.tabletop.scene import COLOURS, SHAPES, Object

SCALER = ActionScaler(EMBODIMENT.action)


class Tabletop(TabletopEnv):
    """One of the tabletop's tasks, e.g. "lift"; see `TabletopEnv`.

    Observation: "front" and "wrist", uint8 [64, 64, 3]; "state", float32 [13], the robot's state in its units, then the goal's
    colour and shape, one-hot; "oracle", float32 [1], 1 if the front camera sees the goal. Actions are float32 [5] from -1 to 1,
    as shares of their limits. `info["fields"]` fills prompts.

    Raises:
        UserError: there is no such task.
    """

    fields = ("instruction", "object", "colour", "shape")
    needs_process = True

    @staticmethod
    def unfit(name: str) -> str:
        if name == "tabletop/lift":
            return ""
        return f"it was trained on {name}, whose instructions say more than the goal that the head observes"

    def __init__(self, task: str):
        super().__init__(task)
        inner = self.observation_space
        assert isinstance(inner, spaces.Dict)
        words = len(COLOURS) + len(SHAPES)
        self.observation_space = spaces.Dict(
            {
                **{camera.name: inner[camera.name] for camera in EMBODIMENT.cameras},
                "state": spaces.Box(-4.0, 4.0, (EMBODIMENT.state.size + words,), np.float32),
                "oracle": spaces.Box(0.0, 1.0, (1,), np.float32),
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (len(SCALER.free),), np.float32)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        return self._with_goal(observation), {**info, "fields": self._fields()}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        observation, reward, over, cut, info = super().step(SCALER.inverse(action))
        success = bool(info.get("success", False))
        return self._with_goal(observation), reward, over, cut, {**info, "fields": self._fields(), "is_success": success}

    def _goal(self) -> Object:
        assert self._simulation is not None and self._simulation.outcome.goal is not None
        return self._simulation.table.scene[self._simulation.outcome.goal.target]

    def _fields(self) -> dict[str, str]:
        goal = self._goal()
        return {"instruction": self.instruction, "object": goal.name, "colour": goal.colour, "shape": goal.shape}

    def _with_goal(self, observation: dict[str, Any]) -> dict[str, Any]:
        assert self._simulation is not None and self._simulation.outcome.goal is not None
        goal = self._goal()
        words = [*(one == goal.colour for one in COLOURS), *(one == goal.shape for one in SHAPES)]
        in_view = visible(self._simulation.table, self._simulation.outcome.goal.target)
        state = np.concatenate([observation["state"], np.array(words, np.float32)])
        return {**observation, "state": state.astype(np.float32), "oracle": np.array([in_view], np.float32)}
