"""One LIBERO task simulated: the benchmark's environment with resets, states, pictures and goals."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from vla.contract import Camera
from vla.errors import UserError
from vla.sim.libero.benchmark import initial_states, make_environment
from vla.sim.libero.pictures import Drawer, Pictures
from vla.sim.libero.protocols import SETTLING, Protocol
from vla.sim.libero.resets import Resets
from vla.sim.libero.tasks import Condition, LiberoTask
from vla.sim.libero.variation import Drawing


class Environment:
    """The Panda in a task's scene. Making it takes seconds, and up to 2.5 GB: have one at a time, and `close` it.

    Attributes:
        env: the benchmark's environment.
        task: the task.

    Raises:
        UserError: the benchmark is not installed.
    """

    def __init__(self, task: LiberoTask):
        self.task, self.env = task, make_environment(task)
        self.model, self.data = self.env.sim.model._model, self.env.sim.data._data
        self._states = initial_states(task)
        self._resets = Resets(self.env)
        self._drawer: tuple[Drawing, Drawer] | None = None
        robot = self.env.robots[0]
        self._hand = robot.robot_model.eef_name
        self._fingers = robot._ref_gripper_joint_pos_indexes

    def reset(self, protocol: Protocol, scene: int) -> None:
        """Sets a scene up and lets it settle.

        Args:
            scene: its number, of `STATES`.

        Raises:
            UserError: there is no such scene.
        """
        if not 0 <= scene < len(self._states):
            last = len(self._states) - 1
            raise UserError(f"initial state {scene}", self.task.name, f"there are {last + 1}, 0 to {last}")
        self._resets.reset(protocol, scene)
        self.env.sim.set_state_from_flattened(self._states[scene])
        self.env.sim.forward()
        # What is seen of a stove follows from its knob.
        self.env._check_success()
        self.env._post_process()
        for _ in range(protocol.settling):
            self.step(np.array(SETTLING))

    def step(self, action: np.ndarray) -> None:
        """Carries out an action [7], each -1 to 1: displacement and turn of the hand, -1 open, 1 closed."""
        self.env.step(action)

    def holds(self, condition: Condition) -> bool:
        """Whether a condition of a goal is fulfilled."""
        return bool(self.env._eval_predicate(list(condition)))

    def grasps(self) -> bool:
        """Whether something is between the fingers that both of them touch."""
        geoms, model = self.env.robots[0].gripper.important_geoms, self.env.sim.model
        pairs = self.data.contact.geom.tolist()
        touching = []
        for finger in ("left_fingerpad", "right_fingerpad"):
            own = {model.geom_name2id(name) for name in geoms[finger]}
            others = {b if a in own else a for a, b in pairs if a in own or b in own}
            touching.append({int(self.model.geom_bodyid[geom]) for geom in others})
        return bool(set.intersection(*touching))

    def state(self) -> np.ndarray:
        """Proprioception [8]: hand x, y, z (m, world), the hand's rotation vector (rad), both fingers (m)."""
        w, *axis = self.env.sim.data.get_body_xquat(self._hand)
        fingers = [self.data.qpos[index] for index in self._fingers]
        return np.array([*self.data.site_xpos[self.env.robots[0].eef_site_id], *_rotation_vector(w, np.array(axis)), *fingers])

    def fixtures(self) -> dict[str, list[float]]:
        """Where the fixtures are that were drawn: name -> x, y, z (m) and quaternion (wxyz)."""
        places = {}
        for name in self.env.fixtures_dict:
            body = self.env.obj_body_id[name]
            places[name] = [round(float(v), 5) for v in (*self.model.body_pos[body], *self.model.body_quat[body])]
        return places

    def state_hash(self) -> str:
        """SHA-256 of positions, velocities and of where fixtures are."""
        parts = (self.data.qpos, self.data.qvel, self.model.body_pos, self.model.body_quat)
        return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()

    def images(self, protocol: Protocol, drawing: Drawing = "exact", cameras: Sequence[Camera] = ()) -> dict[str, np.ndarray]:
        """What the policy sees: camera name -> image."""
        return Pictures(protocol, cameras).seen(self._draws(drawing), self.data)

    def render(self, camera: str, size: int, drawing: Drawing = "exact") -> np.ndarray:
        """What a person sees: upright and not mirrored, uint8 [size, size, 3]."""
        return self._draws(drawing).draw(self.data, camera, size)

    def _draws(self, drawing: Drawing) -> Drawer:
        if self._drawer is None or self._drawer[0] != drawing:
            if self._drawer:
                self._drawer[1].close()
            self._drawer = (drawing, Drawer(self.model, drawing))
        return self._drawer[1]

    def close(self) -> None:
        if self._drawer:
            self._drawer[1].close()
        self._drawer = None
        self.env.close()


def _rotation_vector(w: float, axis: np.ndarray) -> np.ndarray:
    """Of a quaternion, with an angle of 0 to 2 pi: as published policies have it, so that it does not jump at half a turn."""
    length = math.sqrt(max(1 - min(max(w, -1.0), 1.0) ** 2, 0.0))
    return np.zeros(3) if math.isclose(length, 0.0) else axis * 2 * math.acos(min(max(w, -1.0), 1.0)) / length
