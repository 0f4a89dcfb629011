"""The benchmark's own classes, imported from its folder into this process: only a simulation's process does this."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vla.sim import gl
from vla.sim.libero.embodiment import CONTROL_HZ
from vla.sim.libero.package import BENCHMARK, PACKAGE
from vla.sim.libero.tasks import LiberoTask

UNUSED = ("cv2", "matplotlib", "matplotlib.cm", "matplotlib.pyplot")
"""Modules that the benchmark imports and never uses here: empty ones do, which saves their memory and that they be installed."""


@functools.cache
def problems() -> dict[str, type]:
    """The benchmark's environments: name of a problem -> class.

    Raises:
        UserError: the benchmark is not installed, or this process has loaded another robosuite.
    """
    folder = PACKAGE.enter()
    gl.choose()
    # Settings of the user's for the benchmark would replace its files.
    os.environ["LIBERO_CONFIG_PATH"] = str(folder)
    # Read by robosuite in place of its defaults, by which it writes a log of all users to one file.
    private = types.ModuleType("robosuite.macros_private")
    private.__dict__.update(_MACROS)
    sys.modules[private.__name__] = private
    with _empty(UNUSED):
        domain = importlib.import_module("libero.libero.envs.bddl_base_domain")
        importlib.import_module("libero.libero.envs.problems")
    return domain.TASK_MAPPING


_MACROS = {
    "SIMULATION_TIMESTEP": 0.002,
    "USING_INSTANCE_RANDOMIZATION": False,
    "ENABLE_NUMBA": True,
    "CACHE_NUMBA": True,
    "IMAGE_CONVENTION": "opengl",
    "CONCATENATE_IMAGES": False,
    "MUJOCO_GPU_RENDERING": True,
    "SPACEMOUSE_VENDOR_ID": 9583,
    "SPACEMOUSE_PRODUCT_ID": 50735,
    "CONSOLE_LOGGING_LEVEL": "ERROR",
    "FILE_LOGGING_LEVEL": None,
}
"""robosuite 1.4's own values, but for the logging."""


@contextlib.contextmanager
def _empty(names: tuple[str, ...]) -> Iterator[None]:
    """Puts empty modules in the places of those that are not loaded, until the end of the block."""
    empty = {name: types.ModuleType(name) for name in names if name not in sys.modules}
    sys.modules.update(empty)
    try:
        yield
    finally:
        for name, module in empty.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def call_when_sampled(environment: Any, function: Callable[[], None]) -> None:
    """Calls a function whenever the environment takes an observation. No other observations are taken any more.

    An observation is not of the end of a step: robosuite 1.4 takes it once in every control period, within which its own timer,
    and rounding, say at which of the 25 steps of the physics.
    """
    observables = importlib.import_module("robosuite.utils.observables")

    @observables.sensor(modality="policy")
    def sampled(_cache: dict[str, Any]) -> float:
        function()
        return 0.0

    for name in list(environment._observables):
        environment.modify_observable(observable_name=name, attribute="enabled", modifier=False)
    environment.add_observable(observables.Observable("policy", sampled, sampling_rate=CONTROL_HZ))


def task_files(task: LiberoTask) -> tuple[Path, Path]:
    """A task's description and its initial states."""
    root = PACKAGE.require() / BENCHMARK
    return root / f"bddl_files/{task.folder}/{task.file}.bddl", root / f"init_files/{task.folder}/{task.file}.pruned_init.npz"


def initial_states(task: LiberoTask) -> np.ndarray:
    """[50, 1 + positions + velocities]: time and state of the simulation at the start of each scene."""
    with np.load(task_files(task)[1], allow_pickle=False) as content:
        return content["states"]


def make_environment(task: LiberoTask) -> Any:
    """The benchmark's environment of a task, without cameras; it takes seconds. Only `resets.reset` resets it.

    `as_compiled` of it holds the parts of the model that episodes change, as they were compiled.
    """
    known = problems()
    robosuite, parser = (importlib.import_module(name) for name in ("robosuite", "libero.libero.envs.bddl_utils"))
    file = str(task_files(task)[0])
    problem = known[parser.get_problem_info(file)["problem_name"]]

    def remember(environment: Any, xml_string: str | None = None) -> None:
        problem._initialize_sim(environment, xml_string)
        model = environment.sim.model
        environment.as_compiled = {name: getattr(model, name).copy() for name in ("body_pos", "body_quat", "site_rgba")}

    # Of the same name, which the benchmark compares with the file's.
    kind = type(problem.__name__, (problem,), {"_initialize_sim": remember})
    made = kind(
        file,
        robots=["Panda"],
        controller_configs=robosuite.load_controller_config(default_controller="OSC_POSE"),
        gripper_types="default",
        initialization_noise=None,
        use_camera_obs=False,
        has_renderer=False,
        has_offscreen_renderer=False,
        control_freq=int(CONTROL_HZ),
        horizon=1_000_000_000,
        ignore_done=True,
        hard_reset=False,
    )
    free_memory()
    return made


def free_memory() -> None:
    """Gives back to the system what is no longer used: what MuJoCo decoded to compile a model, and blocks that were freed."""
    if mujoco := sys.modules.get("mujoco"):
        mujoco.mj_clearCache(mujoco.mj_getCache())
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            # Freed blocks stay with the process otherwise: a gigabyte after some tasks.
            ctypes.CDLL("libc.so.6").malloc_trim(0)
