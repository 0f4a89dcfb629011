"""robosuite's own tasks as Gymnasium environments: `import vla.sim.gym`, then `gymnasium.make("vla/robosuite-Lift-v0")`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from vla.errors import UserError
from vla.sim.robosuite.embodiment import CAMERAS, CONTROL_HZ, embodiment
from vla.sim.robosuite.environment import Environment
from vla.sim.simulator import VIDEO_SIZE


class RobosuiteEnv(gymnasium.Env):
    """One of robosuite's tasks, told in words.

    An observation has an image per camera, "agentview" and "eye_in_hand" (uint8 [H, W, 3], upright RGB), and "state", float32
    [8] ([6] for Wipe): gripper x, y, z (m, world), rotation vector (rad), both fingers (m). Actions are robosuite's: float32 [7]
    ([6] for Wipe), each -1 to 1. The reward is 1 for the success that ends an episode, by robosuite's own check, else 0; the
    horizon truncates. The instruction is in `info`.

    Args:
        task: one of robosuite's, as robosuite calls it.
        horizon: steps until an episode is truncated; 0 is the task's.
        render_mode: "rgb_array" or None; `render` gives both cameras beside each other, uint8 [256, 512, 3].

    Raises:
        UserError: an unknown task or render mode, or a step before reset.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": int(CONTROL_HZ)}

    def __init__(self, task: str = "Lift", horizon: int = 0, render_mode: str | None = None):
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise UserError(f"unknown render mode {render_mode!r}", "gymnasium", "rgb_array, or none")
        self.environment, self.render_mode = Environment(task), render_mode
        self.horizon, self.steps = horizon or self.environment.task.horizon, -1
        _, spec = embodiment(self.environment.task.name)
        images = {c.name: spaces.Box(0, 255, (c.height, c.width, 3), np.uint8) for c in spec.cameras}
        # Wider than the contract's limits: a little outside of them happens, and is not hidden.
        state = spaces.Box(-4.0, 4.0, (spec.state.size,), np.float32)
        self.observation_space = spaces.Dict({**images, "state": state})
        self.action_space = spaces.Box(-1.0, 1.0, (spec.action.size,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts episode `seed`, or a drawn one; there are no options."""
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**31)) if seed is None else seed
        self.environment.reset(number)
        self.steps = 0
        return self._observation(), {"instruction": self.environment.instruction, "seed": number}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        if self.steps < 0:
            raise UserError("step before reset", "gymnasium", "call reset first")
        self.environment.step(np.asarray(action, np.float64))
        self.steps += 1
        success = self.environment.success()
        info = {"instruction": self.environment.instruction, "success": success}
        return self._observation(), float(success), success, not success and self.steps >= self.horizon, info

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.render_mode is None or self.steps < 0:
            return None
        return np.concatenate([self.environment.render(camera, VIDEO_SIZE) for camera in CAMERAS], 1)

    def close(self) -> None:
        self.environment.close()

    def _observation(self) -> dict[str, Any]:
        return {**self.environment.images(), "state": self.environment.state().astype(np.float32)}
