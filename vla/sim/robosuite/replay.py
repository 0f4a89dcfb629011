"""robosuite's demo.hdf5, which holds states and no images: rendered again, with any of its cameras, in robomimic's names."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla.datasets.formats.conventions.source_card import CameraKey, SourceCard, load_source_card
from vla.datasets.formats.readers.base import Listed, Raw, Reader, Ref
from vla.datasets.formats.readers.hdf5 import HDF5Reader
from vla.errors import UserError
from vla.sim import gl
from vla.sim.robosuite.embodiment import CAMERAS
from vla.sim.robosuite.tasks import PREFIX, TASKS

SIZE = 84
"""Default edge of the images in pixels: robomimic's."""
ASSETS = "robosuite/models/assets/"


def replayed(reader: Reader, cameras: Sequence[str] = (), height: int = 0, width: int = 0) -> Reader:
    """The reader, or one that renders, where all that it reads are robosuite's states.

    Args:
        cameras: by robosuite's names; none are the front and the wrist camera.
        height, width: of the images; 0 is SIZE.
    """
    if isinstance(reader, HDF5Reader) and _states_alone(reader):
        return ReplayReader(reader.path, cameras or list(CAMERAS.values()), height or SIZE, width or SIZE)
    if cameras:
        raise UserError("there is nothing to render", str(reader.path), "leave out --cameras: they are for robosuite's demo.hdf5")
    return reader


def _states_alone(reader: HDF5Reader) -> bool:
    """Whether the first demonstration has robosuite's states and model, and no images."""
    # One that has no steps may be a link out of the file.
    ref = next((r for r in reader.refs() if r.weight and not r.damage), None)
    if ref is None:
        return False
    demo = reader.opened(ref.place[0])["data"][ref.place[1]]
    try:
        images = any(getattr(entry, "ndim", 0) == 4 for entry in demo.get("obs", {}).values())
        return "states" in demo and "model_file" in demo.attrs and not images
    except (AttributeError, KeyError, OSError, RuntimeError):
        # It is damaged; who reads it says how.
        return False


class ReplayReader(HDF5Reader):
    """Episodes with images and proprioception computed from the recorded states, each in its own recorded model.

    Args:
        cameras: by robosuite's names.
    """

    format = "robosuite-states"

    def __init__(self, path: str | Path, cameras: Sequence[str], height: int, width: int):
        super().__init__(path)
        self.cameras, self.height, self.width = tuple(cameras), height, width

    def read(self, ref: Ref) -> Raw:
        raw = super().read(ref)
        path, name = ref.place
        if not isinstance(raw.get("states"), np.ndarray):
            raise UserError("it has no states", ref.name)
        data = self.opened(path)["data"]
        scene = _Scene(str(data[name].attrs.get("model_file", "")), ref.name)
        scene.check(self.cameras, raw["states"], ref.name)
        images: dict[str, list[np.ndarray]] = {camera: [] for camera in self.cameras}
        proprioception: dict[str, list[np.ndarray]] = {}
        with scene.renderer(self.height, self.width) as render:
            for state in raw["states"]:
                scene.show(state)
                for key, value in scene.proprioception().items():
                    proprioception.setdefault(f"obs/{key}", []).append(value)
                for camera in self.cameras:
                    images[camera].append(render(camera))
        raw |= {key: np.stack(values) for key, values in proprioception.items()}
        raw |= {f"obs/{camera}_image": Listed(np.stack(frames)) for camera, frames in images.items()}
        if words := _wording(data.attrs):
            raw.setdefault("language_instruction", words)
        return raw

    def card(self) -> SourceCard:
        """robomimic's, with these cameras."""
        cameras = {camera.removeprefix("robot0_"): CameraKey(f"obs/{camera}_image") for camera in self.cameras}
        return dataclasses.replace(
            load_source_card("robomimic"),
            title=self.path.stem,
            verified="rendered from robosuite's states",
            cameras=cameras,
            instruction=("language_instruction",),
        )


class _Scene:
    """A recorded model, in one of its states."""

    def __init__(self, text: str, where: str):
        gl.choose()
        import mujoco

        self._mujoco = mujoco
        try:
            self.model = mujoco.MjModel.from_xml_string(_local(text, where))
        except (ValueError, ElementTree.ParseError) as error:
            raise UserError(f"its model cannot be read: {error}", where, "it must be what robosuite recorded") from error
        self.data = mujoco.MjData(self.model)
        sites = [self.model.site(i).name for i in range(self.model.nsite)]
        joints = [self.model.joint(i).name for i in range(self.model.njnt)]
        site = next((name for name in sites if name.startswith("gripper0_") and name.endswith("grip_site")), None)
        if site is None:
            raise UserError("its model has no gripper", where, "one robot with a gripper is expected")
        self._site = self.model.site(site).id
        self._fingers = [self.model.joint(name).qposadr[0] for name in joints if name.startswith("gripper0_")]

    def check(self, cameras: Sequence[str], states: np.ndarray, where: str) -> None:
        """Raises UserError for a camera that the model does not have, or states of another model."""
        known = [self.model.camera(i).name for i in range(self.model.ncam)]
        if unknown := [camera for camera in cameras if camera not in known]:
            raise UserError(f"no camera {', '.join(unknown)}", where, f"its model has {', '.join(known)}")
        size = 1 + self.model.nq + self.model.nv
        if states.ndim != 2 or states.shape[1] != size:
            raise UserError(
                f"states of {states.shape}, its model has {size} values", where, "time, positions and velocities are expected"
            )

    def show(self, state: np.ndarray) -> None:
        """Takes a recorded state: time, positions, velocities."""
        self.data.qpos[:], self.data.qvel[:] = state[1 : 1 + self.model.nq], state[1 + self.model.nq :]
        self._mujoco.mj_forward(self.model, self.data)

    def proprioception(self) -> dict[str, np.ndarray]:
        """What robosuite observes of the robot, by its names."""
        hand = self.data.body("robot0_right_hand").xquat
        return {
            "robot0_eef_pos": self.data.site_xpos[self._site].copy(),
            "robot0_eef_quat": hand[[1, 2, 3, 0]].copy(),
            "robot0_gripper_qpos": self.data.qpos[self._fingers].copy(),
        }

    @contextlib.contextmanager
    def renderer(self, height: int, width: int) -> Iterator[Callable[[str], np.ndarray]]:
        """Gives what renders a camera by its name, upright RGB uint8 [H, W, 3]."""
        made = gl.renderer(self.model, height, width)

        def render(camera: str) -> np.ndarray:
            made.update_scene(self.data, camera=camera)
            # A renderer hands out its own memory.
            return made.render().copy()

        try:
            yield render
        finally:
            made.close()


def _local(text: str, where: str) -> str:
    """The model with its meshes and textures from the robosuite that is installed here; it may read no other file."""
    import robosuite.models

    root = ElementTree.fromstring(text)
    for element in root.iter():
        files = [key for key in element.attrib if key.startswith("file")]
        for key in files or ["file"] * (element.tag in ("include", "extension", "plugin")):
            _, assets, rest = element.get(key, "").rpartition(ASSETS)
            if not assets or ".." in rest:
                what = element.get(key) or element.tag
                raise UserError(f"its model reads {what!r}", where, f"only files of robosuite's own {ASSETS} are read")
            element.set(key, str(Path(robosuite.models.assets_root) / rest))
    return ElementTree.tostring(root, encoding="unicode")


def _wording(attributes: Any) -> str:
    """What the task of a file is; "" for one that is not known here."""
    try:
        name = attributes["env"] if "env" in attributes else json.loads(attributes["env_args"])["env_name"]
    except (KeyError, ValueError, TypeError):
        return ""
    task = TASKS.get(PREFIX + str(name))
    return task.wordings[0] if task else ""
