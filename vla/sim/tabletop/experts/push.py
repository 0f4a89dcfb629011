"""Pushing an object: sideways with one of the open fingers, which stand on either side of it, forwards from behind, closed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vla.sim.tabletop.experts.grasp import limited
from vla.sim.tabletop.scene import ANGULAR
from vla.sim.tabletop.tasks.base import Goal
from vla.sim.tabletop.tasks.push import Push, aim, straddles

if TYPE_CHECKING:
    from vla.sim.tabletop.tabletop import Tabletop

DEPTH, HIGH = 0.028, 0.13
"""Heights (m) of the gripper: below an object's top when it pushes, so that the hand stays above it, and over the table on its
way."""
LOWEST = 0.013
"""Height (m) at which the fingers are just over the table."""
BACK = 0.05
"""Distance (m) from an object's face at which the gripper goes down behind it; as far it may be ahead of what it stands astride
of."""
ALIGNED = 0.01
"""Distance (m) from the line of the push within which the gripper advances."""
FINGER = 0.04
"""Distance (m) of an open finger from the gripper's middle."""
MARGIN, FREE = 0.008, 0.03
"""How much farther (m) than need be an object is pushed, and the height (m) over where it pushes at which the gripper is free of
it."""
ADVANCE, RISE = 0.035, 0.012
"""Length (m) of a step forwards, and of one upwards once the object is where it should be."""
RETREAT = 0.15
"""Height (m) of the gripper at which the work is done: the object has been at rest for long enough by then."""


def is_down(table: Tabletop, goal: Goal) -> bool:
    """Whether the gripper is down behind the object or astride of it."""
    x, y, z, _, _ = table.state()
    away = float(np.hypot(*(table.position(goal.target)[:2] - (x, y))))
    return z - table.raised < LOWEST + FREE and away < BACK + 2 * table.scene[goal.target].half_width


def done(table: Tabletop, task: Push, goal: Goal) -> bool:
    """Whether the object is where it should be and the gripper well above the table."""
    return task.holds(table, goal) and table.state()[2] - table.raised >= RETREAT


def push_action(table: Tabletop, task: Push, goal: Goal) -> np.ndarray:
    """The action [7] that the expert would take now to bring the goal about."""
    x, y, z, yaw, _ = table.state()
    z -= table.raised
    target, item = table.position(goal.target), table.scene[goal.target]
    way = aim(goal, target, None if goal.reference is None else table.position(goal.reference)) - target[:2]
    direction = way / max(float(np.hypot(*way)), 1e-6)
    astride = straddles(direction)
    action = np.zeros(7)
    action[6] = -1.0 if astride else 1.0
    # The fingers are flat on a tile's faces; round objects they push along their line or across it, whichever needs less of a
    # turn.
    angle = table.yaw(goal.target) if item.shape in ANGULAR else float(np.arctan2(direction[1], direction[0]))
    turn = (angle - yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4
    hand = (x, y) - target[:2]
    along = float(hand @ direction)
    across = hand - along * direction
    astray = float(np.hypot(*across))
    # Not from where the object is: what the fingers lift by friction would take them up with it.
    low = max(2 * item.half_height - DEPTH, LOWEST)
    # What is out of the gripper's way need only be where it should, what it pushes a little farther.
    if task.reached(table, goal, within=MARGIN if z < low + FREE else 0.0):
        action[2] = RISE
        return action
    play = FINGER - item.half_width
    in_place = abs(along) < BACK if astride else along < -item.half_width
    if z < low + 0.015 and in_place and astray < 1.5 * ALIGNED:
        # Lower the gripper beside the object, then advance: more slowly, the farther it is from the line.
        action[:2] = -0.8 * across + direction * ADVANCE * np.clip(2 - astray / ALIGNED, 0, 1)
        # A finger's pad would take the object up with it by friction.
        action[2] = 1.5 * (low - z) if not (astride and table.touched(goal.target)) else min(1.5 * (low - z), 0.0)
        return limited(action)
    action[5] = turn
    offset = -hand if astride else -hand - (item.half_width + BACK) * direction
    # A funnel whose tip is where the push begins: sideways only as far up as it says.
    near = min(ALIGNED, play - 0.004) if astride else ALIGNED
    height = low + np.clip((float(np.hypot(*offset)) - near) * 3 + max(abs(turn) - 0.15, 0) * 0.25, 0, HIGH - low)
    rise = height - z
    action[:2] = 1.5 * offset * np.clip((0.05 - rise) / 0.04, 0, 1)
    action[2] = 1.5 * rise
    return limited(action)
