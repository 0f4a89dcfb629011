"""Images of a LIBERO scene: exactly as the benchmark draws them, or faster, and what the policy sees of them."""

from __future__ import annotations

import atexit
import dataclasses
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vla.contract import Camera
from vla.sim.libero.embodiment import CAMERAS
from vla.sim.libero.protocols import Protocol
from vla.sim.libero.variation import Drawing

if TYPE_CHECKING:
    import mujoco

LARGEST = (480, 640)
"""Height and width of the buffer, as robosuite has it: how large an image can be."""
QUALITY = 95
"""Of a protocol's JPEG round trip: TensorFlow's default, with halved colour resolution."""
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS}


class Drawer:
    """Draws one model. There is one OpenGL context, which holds the model's meshes and textures; `close` frees it.

    The lights of LIBERO's scenes cast no shadows, so the pass that draws them is left out: the pixels are the same.
    """

    def __init__(self, model: mujoco.MjModel, drawing: Drawing):
        # Not earlier: it takes the OpenGL library that is chosen when the simulation starts.
        import mujoco

        self._mujoco, self._model = mujoco, model
        exact = drawing == "exact"
        # The buffers are made with the context.
        model.vis.quality.shadowsize = 0
        model.vis.quality.offsamples = 4 if exact else 0
        self._gl = mujoco.GLContext(*LARGEST[::-1])
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=1000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = exact
        self._options = mujoco.MjvOption()
        # Collision meshes are the first group.
        self._options.geomgroup[0], self._options.geomgroup[1] = 0, 1
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        # Before MuJoCo closes the display, without which nothing can be freed.
        atexit.register(self.close)

    def draw(self, data: mujoco.MjData, camera: str, size: int) -> np.ndarray:
        """The image of one of `CAMERAS`, upright and not mirrored, uint8 [size, size, 3]."""
        mujoco = self._mujoco
        self._camera.fixedcamid = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_CAMERA, CAMERAS[camera])
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._options, None, self._camera, everything, self._scene)
        area, pixels = mujoco.MjrRect(0, 0, size, size), np.empty((size, size, 3), np.uint8)
        mujoco.mjr_render(area, self._scene, self._context)
        mujoco.mjr_readPixels(pixels, None, area, self._context)
        return pixels[::-1]

    def close(self) -> None:
        atexit.unregister(self.close)
        self._context.free()
        self._gl.free()


@dataclasses.dataclass(frozen=True)
class Rendering:
    """What the policy sees by a protocol.

    Attributes:
        drawing: how images are drawn.
        cameras: the cameras as the policy's contract says them; () are the protocol's.
    """

    protocol: Protocol
    drawing: Drawing = "exact"
    cameras: Sequence[Camera] = ()

    def seen(self, drawer: Drawer, data: mujoco.MjData) -> dict[str, np.ndarray]:
        """Camera name -> image, uint8 [edge, edge, 3]."""
        wanted = self.cameras or [Camera(name, self.protocol.edge, self.protocol.edge, "mirrored") for name in CAMERAS]
        return {camera.name: self._seen(drawer, data, camera) for camera in wanted}

    def _seen(self, drawer: Drawer, data: mujoco.MjData, camera: Camera) -> np.ndarray:
        edge, filter = camera.height, self.protocol.filter
        image = drawer.draw(data, camera.name, edge if filter == "none" else self.protocol.rendered)
        if camera.orientation == "mirrored":
            image = image[:, ::-1]
        if self.protocol.jpeg:
            image = _compressed(image)
        if image.shape[0] != edge:
            image = np.asarray(Image.fromarray(image).resize((edge, edge), FILTERS[filter]))
        return np.ascontiguousarray(image)


def _compressed(image: np.ndarray) -> np.ndarray:
    """The image after a round trip through JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return np.asarray(Image.open(buffer).convert("RGB"))
