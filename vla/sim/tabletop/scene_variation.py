"""Applies a variation to a compiled tabletop, and restores the model completely, without compiling it again."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from vla.sim.tabletop.embodiment import TABLE_HEIGHT
from vla.sim.tabletop.variation import TabletopVariation

if TYPE_CHECKING:
    from vla.sim.tabletop.tabletop import Tabletop

FIELDS = ("geom_rgba", "geom_matid", "cam_pos", "cam_quat", "light_ambient", "light_diffuse", "light_specular")
"""The model's arrays that a variation, or painting a scene, may change."""
LIGHTS = ("ambient", "diffuse", "specular")


class SceneVariation:
    """Keeps the original values of a compiled tabletop, and applies an episode's variation to it."""

    def __init__(self, table: Tabletop):
        self.table, self.model = table, table.model
        self._built = {name: getattr(self.model, name).copy() for name in FIELDS}
        self._headlight = {name: getattr(self.model.vis.headlight, name).copy() for name in LIGHTS}

    def apply(self, variation: TabletopVariation) -> None:
        """Restores the model and applies this variation. A reset must follow; it places the scene."""
        model = self.model
        for name, value in self._built.items():
            getattr(model, name)[:] = value
        for name, value in self._headlight.items():
            getattr(model.vis.headlight, name)[:] = value * variation.light
            lights = getattr(model, f"light_{name}")
            lights[:] = lights * np.array(variation.light, lights.dtype)
        if isinstance(variation.table, str) and variation.table:
            model.geom_matid[model.geom("table_visual").id] = model.mat(variation.table).id
            model.geom_rgba[model.geom("table_visual").id] = 1
        elif variation.table:
            self._paint("table_visual", variation.table)
        if variation.floor is not None:
            self._paint("floor", variation.floor)
        if variation.walls is not None:
            self._paint("wall_", variation.walls)
        self.table.raise_table(variation.raised)
        if any(variation.camera):
            self._move(np.array(variation.camera))

    def state_hash(self) -> str:
        """SHA-256 of positions, velocities and of all that a variation may have changed."""
        digest = hashlib.sha256(self.table.data.qpos.tobytes() + self.table.data.qvel.tobytes())
        for name in FIELDS:
            digest.update(getattr(self.model, name).tobytes())
        for name in LIGHTS:
            digest.update(getattr(self.model.vis.headlight, name).tobytes())
        return digest.hexdigest()

    def _paint(self, prefix: str, colour: tuple[float, float, float]) -> None:
        for geom in range(self.model.ngeom):
            if self.model.geom(geom).name.startswith(prefix):
                self.model.geom_matid[geom] = -1
                self.model.geom_rgba[geom] = (*colour, 1.0)

    def _move(self, shift: np.ndarray) -> None:
        from vla.sim.tabletop.tabletop import look

        camera = self.model.camera("front").id
        position = self.model.cam_pos[camera].copy()
        # The point of the table top that the camera is built to look at: 45 degrees down from where it stands.
        aim = np.array([position[0] - (position[2] - TABLE_HEIGHT), 0.0, TABLE_HEIGHT])
        self.model.cam_pos[camera] = position + shift
        self.model.cam_quat[camera] = look(aim - position - shift)
