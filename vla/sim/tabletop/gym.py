"""The tabletop as Gymnasium environments: `import vla.sim.gym`, then `gymnasium.make("vla/Lift-v0")`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from vla.errors import UserError
from vla.sim.episodes import KINDS, Episode, Result
from vla.sim.simulator import VIDEO_SIZE
from vla.sim.tabletop.embodiment import CONTROL_HZ, EMBODIMENT
from vla.sim.tabletop.simulation import TabletopSimulation
from vla.sim.tabletop.tasks import find_task
from vla.sim.tabletop.variation import SEEN, TabletopVariation


class TabletopEnv(gymnasium.Env):
    """One task on the tabletop, told in words.

    An observation has an image per camera (uint8 [H, W, 3], upright RGB) and "state", float32 [5] in the units of
    `EMBODIMENT`; the instruction is in `info` at every step, and in `instruction`. Actions are float32 [7]: metres, radians,
    gripper -1 open to +1 closed. The reward is 1 for the success that ends an episode, else 0. An episode is terminated by
    success or by the wrong object or place, and truncated by the horizon; `info["failure"]` says which of them it was.

    Seeds are those of `vla rollout --seed`: the same number is the same scene and the same instruction.

    Args:
        task: one of the tabletop's.
        horizon: steps until an episode is truncated; 0 is the task's.
        render_mode: "rgb_array" or None; `render` gives both cameras beside each other, uint8 [256, 512, 3].

    Raises:
        UserError: an unknown task, kind of instruction, option or render mode.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": int(CONTROL_HZ)}

    def __init__(self, task: str = "lift", horizon: int = 0, render_mode: str | None = None):
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise UserError(f"unknown render mode {render_mode!r}", "gymnasium", "rgb_array, or none")
        self.task, self.horizon, self.render_mode = find_task(task).name, horizon, render_mode
        spec = EMBODIMENT
        images = {c.name: spaces.Box(0, 255, (c.height, c.width, 3), np.uint8) for c in spec.cameras}
        # Wider than the contract's limits: a little outside of them happens, and is not hidden.
        state = spaces.Box(-4.0, 4.0, (spec.state.size,), np.float32)
        self.observation_space = spaces.Dict({**images, "state": state})
        self.action_space = spaces.Box(np.array(spec.action.low, np.float32), np.array(spec.action.high, np.float32))
        self._simulation: TabletopSimulation | None = None
        self.instruction = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode: scene `seed`, or a drawn one.

        Args:
            options: "kind" of instruction (default "correct") and "variation" (a `TabletopVariation`; default training's scenes).
        """
        super().reset(seed=seed)
        options = dict(options or {})
        kind, variation = options.pop("kind", "correct"), options.pop("variation", SEEN)
        if options or kind not in KINDS or not isinstance(variation, TabletopVariation):
            raise UserError(
                f"kind {kind!r}, variation {variation!r}, further options {list(options)}",
                "gymnasium reset",
                f"kind is one of {', '.join(KINDS)}, variation a vla.sim.tabletop.variation.TabletopVariation",
            )
        number = int(self.np_random.integers(2**31)) if seed is None else seed
        # Loading robosuite takes seconds; a vectorised environment makes one per process.
        self._simulation = self._simulation or TabletopSimulation()
        first = self._simulation.start(Episode(number, kind, horizon=self.horizon, task=self.task, variation=variation))
        self.instruction = first.instruction
        return self._observation(first.images, first.state), {"instruction": first.instruction, "seed": number}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        if self._simulation is None:
            raise UserError("step before reset", "gymnasium", "call reset first")
        simulation = self._simulation
        result = simulation.step(np.asarray(action, np.float64), False, False)
        observation = simulation.observe(True)
        info: dict[str, Any] = {"instruction": self.instruction}
        over, timeout = isinstance(result, Result), False
        if isinstance(result, Result):
            info |= {"failure": result.failure, "success": result.success, "first": result.first, "target": result.target}
            timeout = not result.executed
        reward = float(isinstance(result, Result) and result.success)
        return self._observation(observation.images, observation.state), reward, over and not timeout, timeout, info

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.render_mode is None or self._simulation is None:
            return None
        table = self._simulation.table
        return np.concatenate([table.render(camera, VIDEO_SIZE) for camera in table.cameras], 1)

    def close(self) -> None:
        if self._simulation is not None:
            self._simulation.table.close()
            self._simulation = None

    @staticmethod
    def _observation(images: dict[str, np.ndarray], state: np.ndarray) -> dict[str, Any]:
        return {**{name: image.copy() for name, image in images.items()}, "state": state.astype(np.float32)}
