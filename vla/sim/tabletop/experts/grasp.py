"""Taking hold of an object, and lifting it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vla.sim.tabletop.embodiment import POSITION_STEP, ROTATION_STEP
from vla.sim.tabletop.scene import ANGULAR
from vla.sim.tabletop.tasks.lift import LIFTED

if TYPE_CHECKING:
    from vla.sim.tabletop.tabletop import Tabletop

HOVER, DEPTH = 0.09, 0.028
"""Heights of the gripper (m): over where it grasps on the way to an object, and of an object's top over it once around it."""
RAISED = 0.16
"""Height of an object's underside (m) at which the work is done. It is reached only after an object that is up has been held long
enough to count: so a glance at the present state says whether to terminate."""
NEAR = 0.012
"""Horizontal distance (m) below which the gripper goes all the way down."""
TURNING = 0.1
"""Horizontal distance (m) below which the gripper turns to an object's faces."""
CLOSING, EMPTY = 0.074, 0.038
"""Gaps (m) between the fingers below which they are closing, and have closed on nothing: every object of the usual size is
wider."""


def done(table: Tabletop, target: int) -> bool:
    """Whether object `target` is raised, so that the expert would terminate."""
    return table.grasped(target) and table.lift(target) >= RAISED


def turn(table: Tabletop, target: int) -> float:
    """How far (rad) the gripper has to turn to grip object `target` by its faces, or to be straight for one that is round.

    Of a cube's pairs of faces it is always the one nearer to the table's axes: which one is nearer to the gripper would change
    while it turns, and a policy that has begun wrongly would stall between the two.
    """
    straight = table.yaw(target) if table.scene[target].shape in ANGULAR else 0.0
    return straight - float(table.state()[3])


def lift_action(table: Tabletop, target: int) -> np.ndarray:
    """The action [7] that the expert would take now to lift object `target`: metres, radians, gripper -1 open, +1 closed."""
    if not table.grasped(target):
        return approach(table, target)
    # Held: straight up, and slowly once it is up.
    action = np.zeros(7)
    action[2], action[6] = (0.03 if table.lift(target) < LIFTED else 0.014), 1.0
    return limited(action)


def approach(table: Tabletop, target: int) -> np.ndarray:
    """The action [7] towards a grasp of object `target`, which is not held yet."""
    x, y, z, _, gap = table.state()
    item, goal, angle = table.scene[target], table.position(target), turn(table, target)
    offset = goal[:2] - (x, y)
    distance = float(np.hypot(*offset))
    # A wide object leaves the open fingers less play; from a low one they would reach the table.
    near, depth = min(NEAR, 0.041 - item.half_width), min(DEPTH, 1.25 * item.half_height)
    action = np.zeros(7)
    action[6] = -1.0
    action[:2] = 1.5 * offset
    # From afar no camera tells how an object is turned.
    action[5] = angle if distance < TURNING else 0.0
    down = float(goal[2]) + item.half_height - depth
    # A funnel: the nearer above the object, the lower the gripper may be.
    height = down + np.clip((distance - near) * 3 + max(abs(angle) - 0.15, 0) * 0.25, 0, HOVER)
    action[2] = 1.5 * (height - z)
    # Closing takes several steps, in which it goes on aligning; what it has begun it does not leave for a trifle.
    slack = 1.6 if min(EMPTY, 2 * item.half_width - 0.004) < gap < CLOSING else 1.0
    if distance < near * slack and z - down < 0.010 * slack and abs(angle) < 0.2 * slack:
        action[6] = 1.0
    return limited(action)


def limited(action: np.ndarray) -> np.ndarray:
    """The action [7] within what one control period allows."""
    limit = np.array([POSITION_STEP] * 3 + [ROTATION_STEP] * 3 + [1.0])
    return np.clip(action, -limit, limit)
