"""The language tabletop: a Panda under operational space control in front of coloured objects, on robosuite and MuJoCo.

One compiled model serves every scene: each of the object slots holds every shape in every size, of which one is switched on, and
colours are painted, so that a new scene costs no compilation.
"""

from __future__ import annotations

import itertools
import logging
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np

from vla.sim import gl
from vla.sim.tabletop.embodiment import CONTROL_HZ, EMBODIMENT, POSITION_STEP, ROTATION_STEP, SIZE, TABLE_HEIGHT
from vla.sim.tabletop.scene import (
    ANGULAR,
    FLAT,
    FLOOR,
    RECEPTACLES,
    SHAPES,
    SIZES,
    SLOTS,
    WALL,
    Scene,
    measures,
    rgb,
)

gl.choose()
import mujoco  # noqa: E402  (after the renderer was chosen)

TIMESTEP = 0.004
"""Seconds of one physics step."""
TORQUE_EVERY = 2
"""Physics steps for which the controller's torques hold: they cost three times what the physics does."""
UNSEEN = ("fixed_mount", "pedestal", "link0", "link1", "link2", "link3", "link4")
UPPER = ("link5", "link6", "link7")
"""Parts of the robot that no camera sees anywhere in the workspace, and those that only the front camera sees. Their meshes have
four fifths of all faces, and faces are what an image costs."""
UPPER_GROUP, UNSEEN_GROUP = 2, 5

CONE_TOP = 0.25
"""Radius of a cone's top, as a share of its base's."""
OBJECT_MASS, RECEPTACLE_MASS = 0.06, 0.4
OBJECT_INERTIA, RECEPTACLE_INERTIA = 2.5e-5, 6e-4
"""Of a body about its middle, in kg and kg m^2: a receptacle stays where it is when something bumps into it."""


def _slot(index: int) -> ElementTree.Element:
    """The body of a slot; its geoms are named slotN_SHAPE_SIZE, further parts of a shape with a number after that."""
    body = ElementTree.fromstring(
        f'<body name="slot{index}" pos="0 {2 + index} 0" gravcomp="1"><freejoint name="slot{index}_joint"/>'
        f'<inertial pos="0 0 0" mass="{OBJECT_MASS}" diaginertia="{OBJECT_INERTIA} {OBJECT_INERTIA} {OBJECT_INERTIA}"/></body>'
    )

    def geom(name: str, form: str, size: tuple[float, ...], **more: str) -> None:
        common = {"group": "1", "friction": "1.5 0.01 0.0005", "solref": "0.01 1", "condim": "4"}
        common |= {"size": " ".join(map(str, size))} if size else {}
        ElementTree.SubElement(body, "geom", {**common, "name": f"slot{index}_{name}", "type": form, **more})

    for shape, size in itertools.product(SHAPES | FLAT, SIZES):
        wide, high = measures(shape, size)
        geom(f"{shape}_{size}", *(("box", (wide, wide, high)) if shape in ANGULAR else ("cylinder", (wide, high))))
    for size in SIZES:
        geom(f"drum_{size}", "cylinder", measures("drum", size))
        # Without any rolling friction a ball would never lie still.
        geom(f"ball_{size}", "sphere", measures("ball", size)[:1], friction="1.5 0.01 0.002", condim="6")
        geom(f"cone_{size}", "mesh", (), mesh=f"cone_{size}")
    (edge, height), (radius, thin) = RECEPTACLES["tray"], RECEPTACLES["plate"]
    # A thin disc sinks into the table: boxes within it, turned against each other, take its contacts.
    geom("plate_", "cylinder", (radius, thin), contype="0", conaffinity="0")
    for turn in (0, 30, 60):
        inner = (radius / 2**0.5, radius / 2**0.5, thin)
        geom(f"plate__{turn}", "box", inner, euler=f"0 0 {np.deg2rad(turn)}", group=str(UNSEEN_GROUP))
    geom("tray_", "box", (edge, edge, FLOOR / 2), pos=f"0 0 {FLOOR / 2 - height}")
    reach = edge - WALL / 2
    for side, (x, y) in enumerate([(1, 0), (-1, 0), (0, 1), (0, -1)]):
        size = (WALL / 2, edge, height) if x else (edge, WALL / 2, height)
        geom(f"tray__{side}", "box", size, pos=f"{x * reach} {y * reach} 0")
    return body


def _cone(size: str) -> ElementTree.Element:
    """The mesh of a cone about the middle of its height, blunt so that the fingers' pads do not meet over it."""
    wide, high = measures("cone", size)
    turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    rings = [(r * np.cos(t), r * np.sin(t), z) for r, z in ((wide, -high), (CONE_TOP * wide, high)) for t in turns]
    return ElementTree.Element("mesh", name=f"cone_{size}", vertex=" ".join(f"{v:.6f}" for ring in rings for v in ring))


def make_robosuite(**options: Any) -> Any:
    """A robosuite environment of our own: Panda, table, slots and the front camera.

    Args:
        options: of the environment, other than ours: ours renders no images itself and is never compiled twice.
    """
    # A level would not last: importing robosuite sets its own.
    logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)
    from robosuite.controllers import load_composite_controller_config
    from robosuite.environments.manipulation.manipulation_env import ManipulationEnv
    from robosuite.models.arenas import TableArena
    from robosuite.models.tasks import ManipulationTask

    class LanguageTabletop(ManipulationEnv):
        def _load_model(self):
            super()._load_model()
            model = self.robots[0].robot_model
            model.set_base_xpos(model.base_xpos_offset["table"](0.8))
            arena: Any = TableArena(table_full_size=(0.8, 0.8, 0.05), table_offset=np.array((0, 0, TABLE_HEIGHT)))
            arena.set_origin([0, 0, 0])
            # In front of the table, looking back at the robot and steeply down: the arm comes from behind the objects.
            arena.set_camera(
                "front",
                pos=[0.50, 0, TABLE_HEIGHT + 0.58],
                quat=look(np.array([-0.50, 0, -0.50])),
                camera_attribs={"fovy": "33"},
            )
            # A dark table: every colour, white included, stands out against it.
            arena.table_visual.set("material", "")
            arena.table_visual.attrib.pop("material")
            arena.table_visual.set("rgba", "0.24 0.22 0.21 1")
            self.model = ManipulationTask(mujoco_arena=arena, mujoco_robots=[model], mujoco_objects=[])
            self.model.asset.extend(_cone(size) for size in SIZES)
            for index in range(SLOTS):
                self.model.worldbody.append(_slot(index))

        def reward(self, action=None):
            return 0.0

        def _check_success(self):
            return False

    config: Any = load_composite_controller_config(robot="Panda")
    arm = config["body_parts"]["right"]
    arm["output_max"] = [POSITION_STEP] * 3 + [ROTATION_STEP] * 3
    arm["output_min"] = [-v for v in arm["output_max"]]
    ours = {
        "robots": "Panda",
        "controller_configs": config,
        "gripper_types": "default",
        "initialization_noise": None,
        "use_camera_obs": False,
        "has_renderer": False,
        "has_offscreen_renderer": False,
        "control_freq": int(CONTROL_HZ),
        "horizon": 100_000,
        "ignore_done": True,
        "hard_reset": False,
    }
    return LanguageTabletop(**ours | options)


def look(direction: np.ndarray) -> list[float]:
    """Quaternion (wxyz) of a camera that looks along `direction`, upright."""
    back = -direction / np.linalg.norm(direction)
    right = np.cross([0, 0, 1.0], back)
    right /= np.linalg.norm(right)
    matrix = np.stack([right, np.cross(back, right), back], 1)
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, matrix.flatten())
    return quat.tolist()


class Tabletop:
    """The simulated robot: scenes in, images and states out, actions in the contract's units.

    Attributes:
        raised: how much higher (m) the table is than it was built.

    Raises:
        UserError: no OpenGL renderer works on this machine (only when an image is asked for).
    """

    cameras = ("front", "wrist")

    def __init__(self):
        self._env = make_robosuite()
        self.robot = self._env.robots[0]
        self.model, self.data = self._env.sim.model._model, self._env.sim.data._data
        # Half as many physics steps as robosuite takes: the expert is as good and a control period costs half (11 ms, not 22).
        self._env.model_timestep = self.model.opt.timestep = TIMESTEP
        self._limits = np.array([EMBODIMENT.state.low[:4], EMBODIMENT.state.high[:4]])
        for geom in np.flatnonzero(self.model.geom_group == 1):
            body = self.model.body(self.model.geom_bodyid[geom]).name
            if any(part in body for part in UNSEEN):
                self.model.geom_group[geom] = UNSEEN_GROUP
            elif any(part in body for part in UPPER):
                self.model.geom_group[geom] = UPPER_GROUP
        # Enough even light that the sides of dark colours tell themselves from the table.
        self.model.vis.headlight.ambient[:] = 0.3
        self._scale = np.array([POSITION_STEP] * 3 + [ROTATION_STEP] * 3 + [1.0])
        self._body = [self.model.body(f"slot{i}").id for i in range(SLOTS)]
        self._geoms = [self._shapes(i) for i in range(SLOTS)]
        self._qpos = [self.model.joint(f"slot{i}_joint").qposadr[0] for i in range(SLOTS)]
        self._solid = self.model.geom_contype.copy()
        self._invweight, self._dof_invweight = self.model.body_invweight0.copy(), self.model.dof_invweight0.copy()
        self._site = self.model.site("gripper0_right_grip_site").id
        self._fingers = [self.model.joint(f"gripper0_right_finger_joint{i}").qposadr[0] for i in (1, 2)]
        self._joint_positions = [*self.robot._ref_joint_pos_indexes, *self._fingers]
        self._pads = [self.model.geom(f"gripper0_right_finger{i}_pad_collision").id for i in (1, 2)]
        self._robot_root = self.model.body_rootid[self.model.geom_bodyid[self._pads[0]]]
        self._camera_names = {"front": "front", "wrist": "robot0_eye_in_hand"}
        self._renderers: dict[int, mujoco.Renderer] = {}
        self._table = self.model.body("table").id
        self._table_built = float(self.model.body_pos[self._table, 2])
        self.raised = 0.0
        self.scene: Scene = ()

    def raise_table(self, by: float) -> None:
        """Makes the table so much (m) higher than it was built; what is placed from now on stands on it. The robot stays where it
        is, and so does the place from which it counts heights."""
        self.raised = by
        self.model.body_pos[self._table, 2] = self._table_built + by

    def _shapes(self, slot: int) -> dict[tuple[str, str], list[int]]:
        """The geoms of each (shape, size) that a slot holds."""
        by_shape: dict[tuple[str, str], list[int]] = {}
        for geom in np.flatnonzero(self.model.geom_bodyid == self._body[slot]).tolist():
            _, shape, size = self.model.geom(geom).name.split("_")[:3]
            by_shape.setdefault((shape, size), []).append(geom)
        return by_shape

    def reset(self, scene: Scene, rng: np.random.Generator | None = None) -> None:
        """Puts the robot in its first pose (with some joint noise, if rng is given) and the scene on the table."""
        env = self._env
        env.sim.reset()
        env._reset_internal()
        if rng is not None:
            noise = np.clip(rng.normal(0, 0.02, 7), -0.04, 0.04)
            self.data.qpos[self.robot._ref_joint_pos_indexes] += noise
        self.place(scene)
        env.sim.forward()
        for part in self.robot.composite_controller.part_controllers.values():
            if hasattr(part, "update_initial_joints"):
                part.update_initial_joints(self.data.qpos[self.robot._ref_joint_pos_indexes].copy())
        self.robot.composite_controller.reset()

    def place(self, scene: Scene) -> None:
        """Puts the objects of a scene where it says and paints them; nothing else moves. Call `forward` before looking."""
        self.scene = scene
        for index in range(SLOTS):
            start, body = self._qpos[index], self._body[index]
            dof = self.model.body_dofadr[body]
            self.data.qvel[dof : dof + 6] = 0
            self.data.qpos[start : start + 7] = (0, 2 + index, 0, 1, 0, 0, 0)
            self.model.body_gravcomp[body] = 1.0
            geoms = np.flatnonzero(self.model.geom_bodyid == body)
            self.model.geom_rgba[geoms] = 0
            self.model.geom_contype[geoms] = self.model.geom_conaffinity[geoms] = 0
            if index < len(scene):
                item = scene[index]
                half = item.yaw / 2
                high = TABLE_HEIGHT + self.raised + item.half_height
                self.data.qpos[start : start + 7] = (item.x, item.y, high, np.cos(half), 0, 0, np.sin(half))
                self.model.body_gravcomp[body] = 0.0
                self._weigh(body, item.movable)
                geoms = self._geoms[index][item.shape, item.size]
                self.model.geom_rgba[geoms] = (*rgb(item.colour), 1.0)
                self.model.geom_contype[geoms] = self.model.geom_conaffinity[geoms] = self._solid[geoms]

    def _weigh(self, body: int, movable: bool) -> None:
        """Gives a body the mass and inertia of an object or of a receptacle, and contacts as stiff."""
        model = self.model
        mass, inertia = (OBJECT_MASS, OBJECT_INERTIA) if movable else (RECEPTACLE_MASS, RECEPTACLE_INERTIA)
        # How stiff contacts are goes by inverse weights, which MuJoCo takes when it compiles.
        light, easy = OBJECT_MASS / mass, OBJECT_INERTIA / inertia
        dof = model.body_dofadr[body]
        model.body_mass[body], model.body_inertia[body] = mass, inertia
        model.body_invweight0[body] = self._invweight[body] * (light, easy)
        model.dof_invweight0[dof : dof + 6] = self._dof_invweight[dof : dof + 6] * ([light] * 3 + [easy] * 3)

    def forward(self) -> None:
        """Brings positions, cameras and contacts in line with a changed state."""
        self._env.sim.forward()

    def step(self, action: np.ndarray) -> None:
        """Carries out one action [7] (metres, radians, gripper) for one control period; it stays within the state's limits."""
        action, now = np.array(action, np.float64), self.state()[:4]
        moved, limits = [0, 1, 2, 5], self._limits + (0, 0, self.raised, 0)
        action[moved] = np.clip(now + action[moved], *limits) - now
        command = np.clip(action / self._scale, -1, 1)
        sim = self._env.sim
        for step in range(round(1 / CONTROL_HZ / TIMESTEP)):
            sim.step1()
            if step % TORQUE_EVERY == 0:
                self._env._pre_action(command, step == 0)
            sim.step2()

    def state(self) -> np.ndarray:
        """Proprioception [5]: gripper x, y, z in metres from the middle of the table top as it was built, yaw in radians, gap in
        metres."""
        x, y, z = self.data.site_xpos[self._site]
        gap = abs(self.data.qpos[self._fingers[0]]) + abs(self.data.qpos[self._fingers[1]])
        return np.array([x, y, z - TABLE_HEIGHT, self._yaw(self.data.site_xmat[self._site]), gap])

    @staticmethod
    def _yaw(flat: np.ndarray) -> float:
        """Angle of the fingers' closing direction to the table's y axis, in (-pi/2, pi/2]."""
        matrix = flat.reshape(3, 3)
        angle = np.arctan2(-matrix[0, 0], matrix[1, 0])
        return float((angle + np.pi / 2) % np.pi - np.pi / 2)

    def position(self, index: int) -> np.ndarray:
        """Where object `index` is: its middle in metres from the middle of the table top as it was built."""
        return self.data.xpos[self._body[index]] - (0, 0, TABLE_HEIGHT)

    def body(self, index: int) -> int:
        """MuJoCo's id of the body of object `index`."""
        return self._body[index]

    def object_qpos(self, index: int) -> np.ndarray:
        """A view of the pose of object `index`: position (world) and quaternion (wxyz), [7]."""
        return self.data.qpos[self._qpos[index] : self._qpos[index] + 7]

    def joints(self) -> np.ndarray:
        """A copy of the positions of the arm's seven joints and the two fingers [9]."""
        return self.data.qpos[self._joint_positions]

    def set_joints(self, joints: np.ndarray) -> np.ndarray:
        """Puts the robot into a pose without simulating; returns the gripper's position [3] as `state` gives it."""
        self.data.qpos[self._joint_positions] = joints
        mujoco.mj_kinematics(self.model, self.data)
        return self.data.site_xpos[self._site] - (0, 0, TABLE_HEIGHT)

    def yaw(self, index: int) -> float:
        """The object's yaw in radians, in [-pi/4, pi/4) (a cube looks the same after a quarter turn)."""
        matrix = self.data.xmat[self._body[index]].reshape(3, 3)
        return float((np.arctan2(matrix[1, 0], matrix[0, 0]) + np.pi / 4) % (np.pi / 2) - np.pi / 4)

    def lift(self, index: int) -> float:
        """How far the underside of object `index` is over the table top, in metres."""
        return float(self.position(index)[2] - self.scene[index].half_height - self.raised)

    def upright(self, index: int) -> bool:
        """Whether object `index` stands as it was put, within 15 degrees; a cube may stand on any of its faces."""
        upwards = np.abs(self.data.xmat[self._body[index]].reshape(3, 3)[2])
        return bool((upwards.max() if self.scene[index].shape == "cube" else upwards[2]) > np.cos(np.deg2rad(15)))

    def grasped(self, index: int) -> bool:
        """Whether both finger pads touch object `index`."""
        touching = self._touching(index)
        return all(pad in touching for pad in self._pads)

    def touched(self, index: int) -> bool:
        """Whether any part of the robot touches object `index`."""
        return any(self.model.body_rootid[self.model.geom_bodyid[g]] == self._robot_root for g in self._touching(index))

    def _touching(self, index: int) -> set[int]:
        """The geoms that are in contact with object `index`."""
        own = set(self._geoms[index][self.scene[index].shape, self.scene[index].size])
        pairs = self.data.contact.geom.tolist()
        return {b if a in own else a for a, b in pairs if a in own or b in own}

    def project(self, index: int, camera: str = "front") -> tuple[float, float]:
        """Where the middle of object `index` is in the image: (to the right, down), each 0 to 1 inside it."""
        cam = self.model.camera(self._camera_names[camera]).id
        offset = self.data.cam_xmat[cam].reshape(3, 3).T @ (self.data.xpos[self._body[index]] - self.data.cam_xpos[cam])
        focal = 0.5 / np.tan(np.deg2rad(self.model.cam_fovy[cam]) / 2)
        return float(0.5 - focal * offset[0] / offset[2]), float(0.5 + focal * offset[1] / offset[2])

    def render(self, camera: str = "front", size: int = SIZE) -> np.ndarray:
        """The image of one camera, upright RGB uint8 [size, size, 3]."""
        if size not in self._renderers:
            self._renderers[size] = gl.renderer(self.model, size, size)
        renderer = self._renderers[size]
        renderer._scene_option.geomgroup[UPPER_GROUP] = camera == "front"
        renderer.update_scene(self.data, camera=self._camera_names[camera])
        return renderer.render()

    def images(self) -> dict[str, np.ndarray]:
        """What the policy sees: camera name -> image."""
        return {camera: self.render(camera) for camera in self.cameras}

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
