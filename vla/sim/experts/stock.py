"""Scripted experts for robosuite's Lift and Stack, from privileged state: functions of the current state only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vla.sim.stock import Stock

STEP, TURN = 0.05, 0.5
"""Metres and radians of an action of 1."""
NEAR, HOVER = 0.012, 0.09
"""Horizontal distance (m) below which the gripper goes all the way down, and its height over where it grasps until then."""
CARRY = 0.08
"""Height (m) over its destination at which a cube is carried."""
CLOSE = 0.1
"""Distance (m) to another object below which the gripper turns so that no finger goes between them."""


def stock_action(stock: Stock) -> np.ndarray:
    """The action [7], each -1 to 1, that the expert would take now.

    Raises:
        KeyError: the task has no expert.
    """
    return {"Lift": _lift, "Stack": _stack}[stock.task.name](stock.env)


def _lift(env: Any) -> np.ndarray:
    if not _grasped(env, env.cube):
        return _grasp(env, env.cube_body_id)
    return _action(np.array([0, 0, 0.04]), 0.0, 1.0)


def _stack(env: Any) -> np.ndarray:
    upper, lower = env.sim.data.body_xpos[env.cubeA_body_id], env.sim.data.body_xpos[env.cubeB_body_id]
    held = _grasped(env, env.cubeA)
    offset = lower - upper
    distance = float(np.hypot(*offset[:2]))
    height = float(env.cubeA.size[2] + env.cubeB.size[2])
    if distance < 0.015 and abs(-offset[2] - height) < 0.006:
        # Let go first, then straight up.
        return _action(np.array([0, 0, 0.0 if held else 0.03]), 0.0, -1.0)
    if not held:
        return _grasp(env, env.cubeA_body_id, beside=env.cubeB_body_id)
    # A funnel; sideways only as far up as it says. It ends a little below the surface, so that the cubes touch.
    rise = offset[2] + height - 0.004 + np.clip((distance - 0.006) * 3, 0, CARRY)
    sideways = np.clip(offset[:2], -0.03, 0.03) * np.clip((0.04 - rise) / 0.03, 0, 1)
    return _action(np.array([*sideways, np.clip(rise, -0.015, 0.05)]), 0.0, 1.0)


def _grasp(env: Any, body: int, beside: int | None = None) -> np.ndarray:
    """Towards a grasp of a cube by its faces, from above."""
    goal, matrix = env.sim.data.body_xpos[body], env.sim.data.body_xmat[body].reshape(3, 3)
    offset, yaw = goal - _place(env), float(np.arctan2(matrix[1, 0], matrix[0, 0]))
    turn = (yaw - _yaw(env) + np.pi / 4) % (np.pi / 2) - np.pi / 4
    if beside is not None:
        way = env.sim.data.body_xpos[beside][:2] - goal[:2]
        # The fingers' line, from left to right, should not be the one to the other cube.
        line = np.array([-np.sin(_yaw(env) + turn), np.cos(_yaw(env) + turn)])
        if np.hypot(*way) < CLOSE and abs(line @ way) > 0.75 * np.hypot(*way):
            turn -= np.copysign(np.pi / 2, _yaw(env) + turn)
    distance = float(np.hypot(*offset[:2]))
    high = np.clip((distance - NEAR) * 3 + max(abs(turn) - 0.15, 0) * 0.25, 0, HOVER)
    closing = distance < NEAR and abs(turn) < 0.2 and abs(offset[2]) < 0.012
    offset[2] += high
    return _action(offset, turn, 1.0 if closing else -1.0)


def _action(offset: np.ndarray, turn: float, grip: float) -> np.ndarray:
    return np.clip(np.array([*(offset / STEP), 0, 0, turn / TURN, grip]), -1, 1)


def _place(env: Any) -> np.ndarray:
    return env.sim.data.site_xpos[env.robots[0].eef_site_id["right"]]


def _yaw(env: Any) -> float:
    """Angle of the fingers' line to the y axis, in (-pi/2, pi/2]."""
    matrix = env.sim.data.site_xmat[env.robots[0].eef_site_id["right"]].reshape(3, 3)
    return float((np.arctan2(-matrix[0, 0], matrix[1, 0]) + np.pi / 2) % np.pi - np.pi / 2)


def _grasped(env: Any, item: Any) -> bool:
    return bool(env._check_grasp(gripper=env.robots[0].gripper, object_geoms=item))
