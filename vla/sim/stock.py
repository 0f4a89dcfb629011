"""robosuite's own tasks, as they are, with instructions: its models, its controller, its check of success."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np

from vla.errors import UserError
from vla.sim import gl
from vla.sim.embodiment import SIZE

CONTROL_HZ = 20.0
CAMERAS = {"front": "agentview", "wrist": "robot0_eye_in_hand"}
"""Name in an observation -> robosuite's."""
SEED = 8_000_000
"""Seeds of robosuite's own placements start here."""


@dataclasses.dataclass(frozen=True)
class StockTask:
    """One of robosuite's tasks.

    Attributes:
        name: as robosuite calls the environment.
        wordings: what the robot may be told; the task leaves nothing open.
        horizon: steps until an episode is given up.
    """

    name: str
    wordings: tuple[str, ...]
    horizon: int = 400


STOCK_TASKS = {
    task.name: task
    for task in (
        StockTask("Lift", ("lift the red cube", "pick up the red cube", "raise the cube from the table"), 200),
        StockTask("Stack", ("stack the red cube on the green cube", "put the red cube on top of the green cube"), 300),
        StockTask("Door", ("open the door", "turn the handle and open the door", "pull the door open")),
        StockTask("PickPlaceCan", ("put the can into its bin", "move the can to the empty bin", "place the can in the other bin")),
        StockTask("NutAssemblySquare", ("put the square nut on the square peg", "fit the square nut over its peg")),
        StockTask("Wipe", ("wipe the table", "wipe the marks off the table", "clean the table"), 500),
    )
}


class Stock:
    """A Panda in one of robosuite's environments. Its model is compiled once: what robosuite draws while it compiles (the size of
    Lift's cube) is the same in every episode, all else is a function of the seed.

    Args:
        name: one of STOCK_TASKS.

    Attributes:
        env: robosuite's environment.
        instruction: of the episode.

    Raises:
        UserError: there is no such task.
    """

    def __init__(self, name: str):
        if name not in STOCK_TASKS:
            raise UserError(f"robosuite has no task {name!r} here", fix=f"one of: {', '.join(STOCK_TASKS)}")
        gl.choose()
        # A level would not last: importing robosuite sets its own.
        logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)
        import mujoco
        import robosuite
        from robosuite.controllers import load_composite_controller_config

        self._mujoco, self.task = mujoco, STOCK_TASKS[name]
        self.env: Any = robosuite.make(
            name,
            robots="Panda",
            controller_configs=load_composite_controller_config(robot="Panda"),
            use_camera_obs=False,
            has_offscreen_renderer=False,
            control_freq=int(CONTROL_HZ),
            horizon=100_000,
            ignore_done=True,
            hard_reset=False,
            seed=0,
        )
        self.instruction = ""
        self._renderers: dict[int, Any] = {}

    @property
    def actions(self) -> int:
        """Numbers of an action, each -1 to 1: displacement and turn of the gripper, and (but for Wipe) -1 open, 1 closed."""
        return self.env.action_dim

    def reset(self, seed: int) -> None:
        """The episode of that number."""
        # All of robosuite's placements and noise come from this one generator, which many of its parts hold.
        self.env.rng.bit_generator.state = np.random.default_rng((SEED, seed)).bit_generator.state
        self.env.reset()
        self.instruction = str(np.random.default_rng((SEED, seed, 1)).choice(self.task.wordings))

    def step(self, action: np.ndarray) -> None:
        self.env.step(np.clip(action, -1, 1))

    def success(self) -> bool:
        """robosuite's own check."""
        return bool(self.env._check_success())

    def state(self) -> np.ndarray:
        """Proprioception [8]: gripper x, y, z (m, world), its rotation vector (rad), both fingers (m; none for Wipe)."""
        robot, data = self.env.robots[0], self.env.sim.data
        turn, quat, site = np.zeros(3), np.zeros(4), robot.eef_site_id["right"]
        self._mujoco.mju_mat2Quat(quat, data.site_xmat[site].flatten())
        self._mujoco.mju_quat2Vel(turn, quat, 1.0)
        fingers = [data.qpos[i] for i in robot._ref_gripper_joint_pos_indexes["right"]]
        return np.array([*data.site_xpos[site], *turn, *(fingers or [0.0, 0.0])])

    def render(self, camera: str = "front", size: int = SIZE) -> np.ndarray:
        """The picture of one camera, upright RGB uint8 [size, size, 3]."""
        if size not in self._renderers:
            self._renderers[size] = gl.renderer(self.env.sim.model._model, size, size)
        renderer = self._renderers[size]
        renderer.update_scene(self.env.sim.data._data, camera=CAMERAS[camera])
        return renderer.render()

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
