"""LIBERO's tasks as Gymnasium environments: `import vla.sim.gym`, then `gymnasium.make("vla/libero-goal-0-v0")`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from vla.errors import UserError
from vla.sim.libero.embodiment import CAMERAS, CONTROL_HZ, EMBODIMENT
from vla.sim.libero.environment import Environment
from vla.sim.libero.goals import Progress
from vla.sim.libero.rendering import Rendering
from vla.sim.libero.tasks import STATES, TASKS
from vla.sim.libero.variation import LiberoVariation, changed
from vla.sim.simulator import VIDEO_SIZE


class LiberoEnv(gymnasium.Env):
    """One of LIBERO's tasks. A process holds one of them, and neither robosuite nor another simulator that needs it.

    An observation has an image per camera, "agentview" and "eye_in_hand" (uint8 [edge, edge, 3], RGB, upright, mirrored left to
    right as in LIBERO's data), and "state", float32 [8]: hand x, y, z (m, world), rotation vector (rad), both fingers (m).
    Actions are LIBERO's: float32 [7], each -1 to 1. The reward is 1 for the success that ends an episode, else 0; the horizon
    truncates. The instruction is in `info`.

    Args:
        task: e.g. "libero-goal-0".
        protocol, rendering: as for `vla rollout`.
        horizon: steps until an episode is truncated; 0 is the protocol's.
        render_mode: "rgb_array" or None; `render` gives both cameras beside each other, uint8 [256, 512, 3], not mirrored.

    Raises:
        UserError: an unknown task, protocol or render mode, the benchmark is not installed, or a step before reset.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": int(CONTROL_HZ)}

    def __init__(
        self,
        task: str = "libero-goal-0",
        protocol: str = "ours",
        rendering: str = "exact",
        horizon: int = 0,
        render_mode: str | None = None,
    ):
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise UserError(f"unknown render mode {render_mode!r}", "gymnasium", "rgb_array, or none")
        if task not in TASKS:
            raise UserError(f"unknown task {task!r}", "gymnasium", f"one of {next(iter(TASKS))} …")
        variation = changed(LiberoVariation(), {"protocol": protocol, "rendering": rendering}, "gymnasium")
        self.task, self.protocol, self.render_mode = TASKS[task], variation.rules, render_mode
        self.rendering = Rendering(self.protocol, variation.rendering)
        own = self.protocol.horizon(self.task.suite)
        if own is None:
            raise UserError(f"protocol {protocol} does not know the suite libero/{self.task.suite}", "gymnasium", "take ours")
        self.environment = Environment(self.task)
        self.horizon, self.steps = horizon or own, -1
        edge = self.protocol.edge
        images = {camera: spaces.Box(0, 255, (edge, edge, 3), np.uint8) for camera in CAMERAS}
        state = spaces.Box(-8.0, 8.0, (EMBODIMENT.state.size,), np.float32)
        self.observation_space = spaces.Dict({**images, "state": state})
        self.action_space = spaces.Box(-1.0, 1.0, (EMBODIMENT.action.size,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts a drawn scene, or the scene of the option "scene", 0 to 49."""
        super().reset(seed=seed)
        scene = int((options or {}).get("scene", self.np_random.integers(STATES)))
        self.environment.reset(self.protocol, scene, self.rendering)
        self.steps, self.progress = 0, Progress([self.task.goal], self.protocol.hold)
        return self._observation(), {"instruction": self.task.goal.instruction, "scene": scene}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        if self.steps < 0:
            raise UserError("step before reset", "gymnasium", "call reset first")
        self.environment.step(np.asarray(action, np.float64), self.rendering)
        self.steps += 1
        self.progress.update(self.environment.holds)
        success = self.progress.reached is not None
        info = {"instruction": self.task.goal.instruction, "success": success}
        return self._observation(), float(success), success, not success and self.steps >= self.horizon, info

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.render_mode is None or self.steps < 0:
            return None
        return np.concatenate([self.environment.render(camera, VIDEO_SIZE, self.rendering.drawing) for camera in CAMERAS], 1)

    def close(self) -> None:
        self.environment.close()

    def _observation(self) -> dict[str, Any]:
        seen = self.environment.seen
        return {**seen.images, "state": seen.state.astype(np.float32)}
