"""The hand of robosuite's Panda, as its experts use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from robosuite.environments.manipulation.manipulation_env import ManipulationEnv
    from robosuite.models.base import MujocoModel

STEP, TURN = 0.05, 0.5
"""Metres and radians of an action of 1."""


def action(offset: np.ndarray, turn: float | np.ndarray, grip: float) -> np.ndarray:
    """The action [7] that moves by an offset [3] (m) and turns by a rotation vector [3], or by an angle about the vertical
    (rad)."""
    vector = turn if isinstance(turn, np.ndarray) else np.array([0, 0, turn])
    return np.clip(np.array([*(offset / STEP), *(vector / TURN), grip]), -1, 1)


def sim(env: ManipulationEnv) -> Any:
    """robosuite's wrapper of the simulation, whose attributes it makes at run time."""
    return env.sim


def pose(env: ManipulationEnv) -> tuple[np.ndarray, np.ndarray]:
    """The position [3] between the fingers, and as columns [3, 3] the line on which they close, the one across, and where they
    point."""
    data, site = sim(env).data, env.robots[0].eef_site_id["right"]
    return data.site_xpos[site], data.site_xmat[site].reshape(3, 3)


def position(env: ManipulationEnv) -> np.ndarray:
    """The position [3] between the fingers."""
    return pose(env)[0]


def grasped(env: ManipulationEnv, item: MujocoModel | list[str]) -> bool:
    """Whether both fingers touch an object, or one of some geoms."""
    return bool(env._check_grasp(gripper=env.robots[0].gripper, object_geoms=item))
