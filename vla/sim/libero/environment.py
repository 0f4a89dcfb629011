"""One LIBERO task simulated: the benchmark's environment with resets, states, images and goals."""

from __future__ import annotations

import dataclasses
import hashlib
import math

import numpy as np

from vla.errors import UserError
from vla.sim.libero.benchmark import call_when_sampled, initial_states, make_environment
from vla.sim.libero.protocols import SETTLING, Protocol
from vla.sim.libero.rendering import Drawer, Rendering
from vla.sim.libero.resets import Resets
from vla.sim.libero.tasks import Condition, Goal, LiberoTask
from vla.sim.libero.variation import Drawing


@dataclasses.dataclass(frozen=True)
class Seen:
    """An observation.

    Attributes:
        state: proprioception [8]: hand x, y, z (m, world), the hand's rotation vector (rad), both fingers (m).
        images: camera name -> image; {} if none were asked for.
    """

    state: np.ndarray
    images: dict[str, np.ndarray]


class Environment:
    """The Panda in a task's scene. Making it takes seconds, and up to 2.5 GB: have one at a time, and `close` it.

    Attributes:
        env: the benchmark's environment.
        task: the task.
        seen: the last observation.

    Raises:
        UserError: the benchmark is not installed.
    """

    seen: Seen

    def __init__(self, task: LiberoTask):
        self.task, self.env = task, make_environment(task)
        self.model, self.data = self.env.sim.model._model, self.env.sim.data._data
        self._states = initial_states(task)
        self._resets = Resets(self.env)
        self._drawer: tuple[Drawing, Drawer] | None = None
        self._look: Rendering | None = None
        robot = self.env.robots[0]
        self._hand = robot.robot_model.eef_name
        self._fingers = robot._ref_gripper_joint_pos_indexes
        call_when_sampled(self.env, self._observe)

    def reset(self, protocol: Protocol, scene: int, look: Rendering | None = None) -> None:
        """Sets a scene up and lets it settle.

        Args:
            scene: its number, of `STATES`.
            look: the images of the observation; None: it has none.

        Raises:
            UserError: there is no such scene.
        """
        if not 0 <= scene < len(self._states):
            last = len(self._states) - 1
            raise UserError(f"initial state {scene}", self.task.name, f"there are {last + 1}, 0 to {last}")
        self._look = None
        self._resets.reset(protocol, scene)
        self.env.sim.set_state_from_flattened(self._states[scene])
        self.env.sim.forward()
        # What is seen of a stove follows from its knob.
        self.env._check_success()
        self.env._post_process()
        self.env._update_observables(force=True)
        for left in range(protocol.settling - 1, -1, -1):
            self.step(np.array(SETTLING), None if left else look)

    def step(self, action: np.ndarray, look: Rendering | None = None) -> None:
        """Carries out an action [7], each -1 to 1: displacement and turn of the hand, -1 open, 1 closed.

        Args:
            look: the images of the next observation; None: it has none.
        """
        self._look = look
        self.env.step(action)

    def look(self, rendering: Rendering) -> Seen:
        """The last observation with images, if it had none with those of the present."""
        if not self.seen.images:
            self.seen = Seen(self.seen.state, rendering.seen(self._draws(rendering.drawing), self.data))
        return self.seen

    def holds(self, condition: Condition) -> bool:
        """Whether a condition of a goal is fulfilled."""
        return bool(self.env._eval_predicate(list(condition)))

    def knows(self, goal: Goal) -> bool:
        """Whether everything that a goal names is in the scene."""
        return all(name in self.env.object_states_dict for _, *names in goal.conditions for name in names)

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

    def objects(self) -> tuple[str, ...]:
        """What stands in the scene and can be moved, by name."""
        return tuple(name.rpartition("_")[0].replace("_", " ") for name in self.env.objects_dict)

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

    def render(self, camera: str, size: int, drawing: Drawing = "exact") -> np.ndarray:
        """What a person sees now: upright and not mirrored, uint8 [size, size, 3]."""
        return self._draws(drawing).draw(self.data, camera, size)

    def _observe(self) -> None:
        w, *axis = self.env.sim.data.get_body_xquat(self._hand)
        fingers = [self.data.qpos[index] for index in self._fingers]
        hand = self.data.site_xpos[self.env.robots[0].eef_site_id]
        state = np.array([*hand, *_rotation_vector(w, np.array(axis)), *fingers])
        images = self._look.seen(self._draws(self._look.drawing), self.data) if self._look else {}
        self.seen = Seen(state, images)

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
    w = min(max(w, -1.0), 1.0)
    length = math.sqrt(1 - w**2)
    return np.zeros(3) if math.isclose(length, 0.0) else axis * 2 * math.acos(w) / length
