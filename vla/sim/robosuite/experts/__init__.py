"""Scripted experts for robosuite's Lift, Stack, Door and PickPlaceCan, from privileged state: functions of the current state
only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vla.sim.robosuite.experts.door import door_action
from vla.sim.robosuite.experts.hand import action, grasped, pose, position, sim

if TYPE_CHECKING:
    from robosuite.environments.manipulation.lift import Lift
    from robosuite.environments.manipulation.manipulation_env import ManipulationEnv
    from robosuite.environments.manipulation.pick_place import PickPlace
    from robosuite.environments.manipulation.stack import Stack

    from vla.sim.robosuite.environment import Environment

NEAR, HOVER = 0.012, 0.09
"""Horizontal distance (m) below which the gripper goes all the way down, and its height over where it grasps until then."""
CARRY = 0.08
"""Height (m) over its destination at which a cube is carried."""
OVER, STANDS = 0.13, 0.085
"""Heights (m) at which the can is carried, over the bins' walls, and of its middle over the bottom of a bin, when it stands
there."""
CLOSE = 0.1
"""Distance (m) to another object below which the gripper turns so that no finger goes between them."""


def expert_action(environment: Environment) -> np.ndarray:
    """The action [7], each -1 to 1, that the expert would take now.

    Raises:
        KeyError: the task has no expert.
    """
    experts = {"Lift": _lift, "Stack": _stack, "Door": door_action, "PickPlaceCan": _can}
    return experts[environment.task.environment](environment.env)


def _lift(env: Lift) -> np.ndarray:
    if not grasped(env, env.cube):
        return _grasp(env, env.cube_body_id)
    return action(np.array([0, 0, 0.04]), 0.0, 1.0)


def _stack(env: Stack) -> np.ndarray:
    upper, lower = sim(env).data.body_xpos[env.cubeA_body_id], sim(env).data.body_xpos[env.cubeB_body_id]
    held = grasped(env, env.cubeA)
    offset = lower - upper
    distance = float(np.hypot(*offset[:2]))
    height = float(env.cubeA.size[2] + env.cubeB.size[2])
    if distance < 0.015 and abs(-offset[2] - height) < 0.006:
        # Let go first, then straight up.
        return action(np.array([0, 0, 0.0 if held else 0.03]), 0.0, -1.0)
    if not held:
        return _grasp(env, env.cubeA_body_id, beside=env.cubeB_body_id)
    # A funnel that ends a little below the surface, so that the cubes touch.
    return _carry(offset + (0, 0, height - 0.004), CARRY, slow=0.015)


def _can(env: PickPlace) -> np.ndarray:
    can, (*bin_, floor) = sim(env).data.body_xpos[env.obj_body_id["Can"]], env.target_bin_placements[env.object_id]
    offset = np.array([*bin_, floor + STANDS]) - can
    held = grasped(env, env.objects[env.object_id])
    if np.hypot(*offset[:2]) < 0.03 and offset[2] > -0.012:
        # Let go first, then straight up: only without the gripper it counts.
        return action(np.array([0, 0, 0.0 if held else 0.04]), 0.0, -1.0)
    if not held:
        return _grasp(env, env.obj_body_id["Can"], high=0.015, round_=True)
    return _carry(offset, OVER, slow=0.03)


def _carry(offset: np.ndarray, high: float, slow: float) -> np.ndarray:
    """What is held to where it belongs, through a funnel: sideways only as far up as it says.

    Args:
        offset: from where it is to where it belongs (m).
        high: how far (m) above that it is carried.
        slow: how far down one step goes at most (m).
    """
    distance = float(np.hypot(*offset[:2]))
    rise = offset[2] + np.clip((distance - 0.006) * 3, 0, high)
    far = np.clip(offset[:2], -0.03, 0.03) * np.clip((0.04 - rise) / 0.03, 0, 1)
    return action(np.array([*far, np.clip(rise, -slow, 0.05)]), 0.0, 1.0)


def _grasp(env: ManipulationEnv, body: int, beside: int | None = None, high: float = 0.0, round_: bool = False) -> np.ndarray:
    """Towards a grasp of an object by its faces, from above, so far over its middle."""
    goal, matrix = sim(env).data.body_xpos[body], sim(env).data.body_xmat[body].reshape(3, 3)
    offset, yaw = goal + (0, 0, high) - position(env), 0.0 if round_ else float(np.arctan2(matrix[1, 0], matrix[0, 0]))
    turn = (yaw - _yaw(env) + np.pi / 4) % (np.pi / 2) - np.pi / 4
    if beside is not None:
        way = sim(env).data.body_xpos[beside][:2] - goal[:2]
        # The fingers' line, from left to right, should not be the one to the other cube.
        line = np.array([-np.sin(_yaw(env) + turn), np.cos(_yaw(env) + turn)])
        if np.hypot(*way) < CLOSE and abs(line @ way) > 0.75 * np.hypot(*way):
            turn -= np.copysign(np.pi / 2, _yaw(env) + turn)
    distance = float(np.hypot(*offset[:2]))
    above = np.clip((distance - NEAR) * 3 + max(abs(turn) - 0.15, 0) * 0.25, 0, HOVER)
    closing = distance < NEAR and abs(turn) < 0.2 and abs(offset[2]) < 0.012
    offset[2] += above
    return action(offset, turn, 1.0 if closing else -1.0)


def _yaw(env: ManipulationEnv) -> float:
    """Angle of the fingers' line to the y axis, in (-pi/2, pi/2]."""
    matrix = pose(env)[1]
    return float((np.arctan2(-matrix[0, 0], matrix[1, 0]) + np.pi / 2) % np.pi - np.pi / 2)
