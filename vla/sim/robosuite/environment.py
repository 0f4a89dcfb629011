"""robosuite's own tasks, as they are, with instructions: its models, its controller, its check of success."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from vla.errors import UserError
from vla.sim import gl
from vla.sim.robosuite.embodiment import CAMERAS, CONTROL_HZ, SIZE
from vla.sim.robosuite.tasks import PREFIX, TASKS

SEED = 8_000_000
"""Seeds of robosuite's own placements start here."""


class Environment:
    """A Panda in one of robosuite's environments. Its model is compiled once: what robosuite draws while it compiles (the size of
    Lift's cube) is the same in every episode, all else is a function of the seed.

    Args:
        name: one of TASKS, with or without its "robosuite-".

    Attributes:
        env: robosuite's environment.
        instruction: of the episode.

    Raises:
        UserError: there is no such task.
    """

    def __init__(self, name: str):
        name = name.removeprefix(PREFIX)
        if PREFIX + name not in TASKS:
            raise UserError(f"robosuite has no task {name!r} here", fix=f"one of: {', '.join(TASKS)}")
        gl.choose()
        # A level would not last: importing robosuite sets its own.
        logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)
        import mujoco
        import robosuite
        from robosuite.controllers import load_composite_controller_config

        self._mujoco, self.task = mujoco, TASKS[PREFIX + name]
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
        self._renderers: dict[int, mujoco.Renderer] = {}

    def reset(self, seed: int | Sequence[int]) -> None:
        """The episode of that number, or of those numbers."""
        entropy = (SEED, *np.atleast_1d(seed).tolist())
        # All of robosuite's placements and noise come from this one generator, which many of its parts hold.
        self.env.rng.bit_generator.state = np.random.default_rng(entropy).bit_generator.state
        self.env.reset()
        self.instruction = str(np.random.default_rng((*entropy, 1)).choice(self.task.wordings))

    def step(self, action: np.ndarray) -> None:
        """Carries out an action [7], each -1 to 1: displacement and turn of the gripper, -1 open, 1 closed ([6] for Wipe)."""
        self.env.step(np.clip(action, -1, 1))

    def success(self) -> bool:
        """robosuite's own check."""
        return bool(self.env._check_success())

    def holds(self) -> bool:
        """Whether something is between the fingers that both of them touch."""
        model, geoms = self.env.sim.model, self.env.robots[0].gripper["right"].important_geoms
        pairs = self.env.sim.data._data.contact.geom.tolist()
        touching = []
        for finger in ("left_fingerpad", "right_fingerpad"):
            own = {model.geom_name2id(name) for name in geoms[finger]}
            others = {b if a in own else a for a, b in pairs if a in own or b in own}
            touching.append({model.geom_bodyid[geom] for geom in others})
        return bool(set.intersection(*touching))

    def state(self) -> np.ndarray:
        """Proprioception [8]: gripper x, y, z (m, world), the hand's rotation vector (rad), both fingers (m; none for Wipe,
        [6])."""
        robot, data = self.env.robots[0], self.env.sim.data
        turn = np.zeros(3)
        # Of the hand's body, not of the site between the fingers: robosuite's `eef_quat`, so robomimic's data.
        self._mujoco.mju_quat2Vel(turn, data.get_body_xquat(robot.robot_model.eef_name["right"]), 1.0)
        fingers = [data.qpos[i] for i in robot._ref_gripper_joint_pos_indexes["right"]]
        return np.array([*data.site_xpos[robot.eef_site_id["right"]], *turn, *fingers])

    def state_hash(self) -> str:
        """SHA-256 of positions, velocities and of where robosuite has put what cannot move."""
        data, model = self.env.sim.data, self.env.sim.model
        parts = (data.qpos, data.qvel, model.body_pos, model.body_quat, model.site_pos)
        return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()

    def render(self, camera: str = "agentview", size: int = SIZE) -> np.ndarray:
        """The image of one camera, upright RGB uint8 [size, size, 3]."""
        if size not in self._renderers:
            self._renderers[size] = gl.renderer(self.env.sim.model._model, size, size)
        renderer = self._renderers[size]
        renderer.update_scene(self.env.sim.data._data, camera=CAMERAS[camera])
        return renderer.render()

    def images(self) -> dict[str, np.ndarray]:
        """What the policy sees: camera name -> image."""
        # A renderer hands out its own memory.
        return {camera: self.render(camera).copy() for camera in CAMERAS}

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
