"""A scripted expert for lifting, from privileged state: a function of the current state only, so its label is clean after any disturbance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vla.sim.embodiment import POSITION_STEP, ROTATION_STEP

if TYPE_CHECKING:
    from vla.sim.tabletop import Tabletop

HOVER, GRASP, CARRY = 0.11, 0.018, 0.16
"""Heights of the gripper over the table (m): on the way to an object, around it, and holding it up."""
NEAR = 0.012
"""Horizontal distance (m) below which the gripper goes all the way down."""


def expert_action(table: Tabletop, target: int) -> np.ndarray:
    """The action [7] that the expert would take now to lift object `target`: metres, radians, gripper -1 open, +1 closed."""
    x, y, z, yaw, gap = table.state()
    goal = table.position(target)
    turn = 0.0 - yaw
    if table.scene[target].shape == "cube":
        turn = (table.yaw(target) - yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4
    offset = goal[:2] - (x, y)
    distance = float(np.hypot(*offset))
    action = np.zeros(7)
    action[5], action[6] = turn, -1.0
    if table.grasped(target):
        # Held: straight up, a little slower at first.
        action[2], action[5], action[6] = 1.2 * (CARRY - z), 0.0, 1.0
    else:
        action[:2] = 1.5 * offset
        down = max(GRASP, float(goal[2]) - 0.003)
        # A funnel: the nearer above the object, the lower the gripper may be.
        height = down + np.clip((distance - NEAR) * 3 + max(abs(turn) - 0.15, 0) * 0.25, 0, HOVER - GRASP)
        action[2] = 1.5 * (height - z)
        if distance < NEAR and z - down < 0.010 and abs(turn) < 0.2:
            action[:2], action[5], action[6] = 0.0, 0.0, 1.0
    limit = np.array([POSITION_STEP] * 3 + [ROTATION_STEP] * 3 + [1.0])
    return np.clip(action, -limit, limit)
