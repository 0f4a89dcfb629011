"""Headless OpenGL for MuJoCo: which library renders, and a renderer stripped of what a policy's images do not need."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import sys
from typing import Any

import numpy as np

PLATFORMS = ("egl", "osmesa")


def choose() -> str:
    """Sets MUJOCO_GL and PYOPENGL_PLATFORM before mujoco is first imported; what the user has set stays.

    On Linux EGL is taken where a display can be opened, else OSMesa where it is installed. Elsewhere MuJoCo has its own way.

    Returns:
        the value of MUJOCO_GL, "" where MuJoCo chooses.
    """
    if sys.platform == "linux":
        if "torch" in sys.modules and importlib.util.find_spec("triton"):
            # Mesa's software renderer and torch's triton each bring LLVM; loaded after Mesa's, triton's crashes the process.
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
    """Whether some EGL device gives a display (EGL_EXT_platform_device), which is how MuJoCo opens one.

    The library alone says little: it is often installed without a driver that it could use.
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
        opened = pointer(get_display(0x313F, device, None))  # EGL_PLATFORM_DEVICE_EXT
        # Left open: MuJoCo opens the same display again, which costs nothing then.
        if opened and egl.eglInitialize(opened, None, None):
            return True
    return False


def renderer(model: Any, height: int, width: int) -> Any:
    """A `mujoco.Renderer` for images of one size without shadows and multisampling, and without collision meshes."""
    import mujoco

    model.vis.quality.shadowsize = 0
    model.vis.quality.offsamples = 0
    made = mujoco.Renderer(model, height, width)
    made._scene_option.geomgroup[:] = [0, 1, 0, 0, 0, 0]
    made._scene_option.sitegroup[:] = 0
    made.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
    made.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
    return made


def refuse_black(images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The images; RuntimeError if one is all black."""
    for camera, image in images.items():
        if not image.any():
            raise RuntimeError(f"the picture of camera {camera!r} is black: the OpenGL context is lost")
    return images
