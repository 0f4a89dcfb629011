"""Headless OpenGL for MuJoCo: chooses the library, and makes renderers without features that a policy's images do not need."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import sys
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import mujoco

PLATFORMS = ("egl", "osmesa")


def choose() -> str:
    """Chooses the OpenGL library for MuJoCo; call it before mujoco is first imported.

    Sets MUJOCO_GL and PYOPENGL_PLATFORM unless the user has set them. On Linux it prefers EGL if a display can be opened, then
    OSMesa if it is installed; on other systems MuJoCo chooses.

    Returns:
        the value of MUJOCO_GL, "" if MuJoCo chooses.
    """
    if sys.platform == "linux":
        if "torch" in sys.modules and importlib.util.find_spec("triton"):
            # Mesa's software renderer and triton each load LLVM; the process crashes if triton's is loaded after Mesa's.
            importlib.import_module("triton")
        if "MUJOCO_GL" not in os.environ:
            os.environ["MUJOCO_GL"] = "osmesa" if not _egl_opens() and _loads("libOSMesa.so.8", "libOSMesa.so.6") else "egl"
        # PyOpenGL binds to one platform when it is imported, and must bind to MuJoCo's.
        if os.environ["MUJOCO_GL"] in PLATFORMS:
            os.environ["PYOPENGL_PLATFORM"] = os.environ["MUJOCO_GL"]
    # A software renderer would start a thread per core in every worker process.
    os.environ.setdefault("LP_NUM_THREADS", "1")
    return os.environ.get("MUJOCO_GL", "")


def _loads(*libraries: str) -> ctypes.CDLL | None:
    for library in libraries:
        try:
            return ctypes.CDLL(library)
        except OSError:
            continue
    return None


def _egl_opens() -> bool:
    """Whether an EGL device opens a display (EGL_EXT_platform_device), as MuJoCo does.

    The library alone is not enough: it is often installed without a driver.
    """
    egl = _loads("libEGL.so.1")
    if egl is None:
        return False
    pointer = ctypes.c_void_p
    egl.eglGetProcAddress.restype = pointer
    query, display = (egl.eglGetProcAddress(name) for name in (b"eglQueryDevicesEXT", b"eglGetPlatformDisplayEXT"))
    if not query or not display:
        return False
    query_devices = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.POINTER(pointer), ctypes.POINTER(ctypes.c_int))(query)
    get_display = ctypes.CFUNCTYPE(pointer, ctypes.c_uint, pointer, pointer)(display)
    devices, count = (pointer * 16)(), ctypes.c_int()
    if not query_devices(16, devices, ctypes.byref(count)):
        return False
    for device in devices[: count.value]:
        egl_display = pointer(get_display(0x313F, device, None))  # EGL_PLATFORM_DEVICE_EXT
        # The display stays open: MuJoCo opens the same one, at no cost.
        if egl_display and egl.eglInitialize(egl_display, None, None):
            return True
    return False


def renderer(model: mujoco.MjModel, height: int, width: int) -> mujoco.Renderer:
    """Makes a renderer for images of one size, without shadows, multisampling and collision meshes."""
    import mujoco

    model.vis.quality.shadowsize = 0
    model.vis.quality.offsamples = 0
    result = mujoco.Renderer(model, height, width)
    result._scene_option.geomgroup[:] = [0, 1, 0, 0, 0, 0]
    result._scene_option.sitegroup[:] = 0
    result.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
    result.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
    return result


def refuse_black(images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the images; RuntimeError if one is all black."""
    for camera, image in images.items():
        if not image.any():
            raise RuntimeError(f"the image of camera {camera!r} is black: the OpenGL context is lost")
    return images
