"""Renders robosuite's demo.hdf5, which has states and no images, with any of its cameras and robomimic's names."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from vla.datasets.formats.conventions.source_card import CameraKey, SourceCard, load_source_card
from vla.datasets.formats.readers.base import InMemoryFrames, Raw, Reader, Ref
from vla.datasets.formats.readers.hdf5 import HDF5Reader
from vla.errors import UserError
from vla.sim import gl
from vla.sim.robosuite.embodiment import CAMERAS
from vla.sim.robosuite.tasks import PREFIX, TASKS

if TYPE_CHECKING:
    import h5py

SIZE = 84
"""Default edge of the images in pixels: robomimic's."""
ASSETS = "robosuite/models/assets/"


def replayed(reader: Reader, cameras: Sequence[str] = (), height: int = 0, width: int = 0) -> Reader:
    """Returns a reader that renders images if the given reader's files have only robosuite's states, else the given reader.

    Args:
        cameras: robosuite's names; by default the front and the wrist camera.
        height, width: size of the images; 0 is SIZE.

    Raises:
        UserError: there are cameras but no states to render.
    """
    if isinstance(reader, HDF5Reader) and _has_only_states(reader):
        return ReplayReader(reader.path, cameras or list(CAMERAS.values()), height or SIZE, width or SIZE)
    if cameras:
        raise UserError("there is nothing to render", str(reader.path), "leave out --cameras: they are for robosuite's demo.hdf5")
    return reader


def _has_only_states(reader: HDF5Reader) -> bool:
    """Whether the first demonstration has robosuite's states and model, and no images."""
    # A demonstration without steps may be a link out of the file.
    ref = next((r for r in reader.refs() if r.weight and not r.damage), None)
    if ref is None:
        return False
    try:
        demo = reader.episode(ref)
        images = any(getattr(entry, "ndim", 0) == 4 for entry in cast("h5py.Group", demo.get("obs", {})).values())
        return "states" in demo and "model_file" in demo.attrs and not images
    except (UserError, AttributeError, KeyError, OSError, RuntimeError):
        # The demonstration is damaged; reading it reports how.
        return False


class ReplayReader(HDF5Reader):
    """Reader that computes images and proprioception from recorded states, each episode with its own recorded model.

    Args:
        cameras: robosuite's names.
    """

    format = "robosuite-states"

    def __init__(self, path: str | Path, cameras: Sequence[str], height: int, width: int):
        super().__init__(path)
        self.cameras, self.height, self.width = tuple(cameras), height, width

    def read(self, ref: Ref) -> Raw:
        raw = super().read(ref)
        path, name = ref.location
        if not isinstance(raw.get("states"), np.ndarray):
            raise UserError("the episode has no states", ref.name)
        data = self.data_group(path)
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
        raw |= {f"obs/{camera}_image": InMemoryFrames(np.stack(frames)) for camera, frames in images.items()}
        if text := _instruction(data.attrs):
            raw.setdefault("language_instruction", text)
        return raw

    def card(self) -> SourceCard:
        """Returns robomimic's card with these cameras."""
        cameras = {camera.removeprefix("robot0_"): CameraKey(f"obs/{camera}_image") for camera in self.cameras}
        return dataclasses.replace(
            load_source_card("robomimic"),
            title=self.path.stem,
            verified="rendered from robosuite's states",
            cameras=cameras,
            instruction=("language_instruction",),
        )


class _Scene:
    """A recorded model in one of its states."""

    def __init__(self, text: str, where: str):
        gl.choose()
        import mujoco

        self._mujoco = mujoco
        try:
            self.model = mujoco.MjModel.from_xml_string(_with_local_assets(text, where))
        except (ValueError, ElementTree.ParseError) as error:
            raise UserError(
                f"the episode's model cannot be read: {error}", where, "give a file that robosuite recorded"
            ) from error
        self.data = mujoco.MjData(self.model)
        sites = [self.model.site(i).name for i in range(self.model.nsite)]
        joints = [self.model.joint(i).name for i in range(self.model.njnt)]
        site = next((name for name in sites if name.startswith("gripper0_") and name.endswith("grip_site")), None)
        if site is None:
            raise UserError("the episode's model has no gripper", where, "one robot with a gripper is expected")
        self._site = self.model.site(site).id
        self._fingers = [self.model.joint(name).qposadr[0] for name in joints if name.startswith("gripper0_")]

    def check(self, cameras: Sequence[str], states: np.ndarray, where: str) -> None:
        """Raises UserError if the model lacks a camera or the states are of another model."""
        known = [self.model.camera(i).name for i in range(self.model.ncam)]
        if unknown := [camera for camera in cameras if camera not in known]:
            raise UserError(f"no camera {', '.join(unknown)}", where, f"the model has {', '.join(known)}")
        size = 1 + self.model.nq + self.model.nv
        if states.ndim != 2 or states.shape[1] != size:
            raise UserError(
                f"the states are {states.shape}, the model has {size} values",
                where,
                "time, positions and velocities are expected",
            )

    def show(self, state: np.ndarray) -> None:
        """Sets the model to a recorded state: time, positions, velocities."""
        self.data.qpos[:], self.data.qvel[:] = state[1 : 1 + self.model.nq], state[1 + self.model.nq :]
        self._mujoco.mj_forward(self.model, self.data)

    def proprioception(self) -> dict[str, np.ndarray]:
        """Returns the observations of the robot under robosuite's names."""
        hand = self.data.body("robot0_right_hand").xquat
        return {
            "robot0_eef_pos": self.data.site_xpos[self._site].copy(),
            "robot0_eef_quat": hand[[1, 2, 3, 0]].copy(),
            "robot0_gripper_qpos": self.data.qpos[self._fingers].copy(),
        }

    @contextlib.contextmanager
    def renderer(self, height: int, width: int) -> Iterator[Callable[[str], np.ndarray]]:
        """Yields a function from a camera's name to its upright RGB image, uint8 [H, W, 3]."""
        renderer = gl.renderer(self.model, height, width)

        def render(camera: str) -> np.ndarray:
            renderer.update_scene(self.data, camera=camera)
            # The renderer reuses its buffer.
            return renderer.render().copy()

        try:
            yield render
        finally:
            renderer.close()


def _with_local_assets(text: str, where: str) -> str:
    """Points the model's meshes and textures to the installed robosuite; UserError if it reads any other file."""
    import robosuite.models

    root = ElementTree.fromstring(text)
    for element in root.iter():
        files = [key for key in element.attrib if key.startswith("file")]
        for key in files or ["file"] * (element.tag in ("include", "extension", "plugin")):
            _, assets, rest = element.get(key, "").rpartition(ASSETS)
            if not assets or ".." in rest:
                what = element.get(key) or element.tag
                raise UserError(f"the model reads {what!r}", where, f"only files of robosuite's own {ASSETS} are allowed")
            element.set(key, str(Path(robosuite.models.assets_root) / rest))
    return ElementTree.tostring(root, encoding="unicode")


def _instruction(attributes: h5py.AttributeManager) -> str:
    """Returns an instruction for the task of a file, by its attributes; "" if the task is unknown."""
    try:
        name = attributes["env"] if "env" in attributes else json.loads(cast(str, attributes["env_args"]))["env_name"]
    except (KeyError, ValueError, TypeError):
        return ""
    task = TASKS.get(PREFIX + str(name))
    return task.wordings[0] if task else ""
