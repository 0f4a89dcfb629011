"""Taking an object to where it belongs and letting go of it there: for putting and for stacking."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vla.sim.tabletop.experts.grasp import approach, limited
from vla.sim.tabletop.tasks.base import Goal
from vla.sim.tabletop.tasks.place import Place, top

if TYPE_CHECKING:
    from vla.sim.tabletop.tabletop import Tabletop

CARRY = 0.1
"""Height (m) over its destination at which an object is carried: over everything else on the table."""
OVER = 0.006
"""Horizontal distance (m) from its destination below which a carried object goes all the way down."""
RETREAT, RISE = 0.08, 0.01
"""Height (m) of the gripper over a placed object at which the work is done, and how much of it one step makes: the object has
been at rest for long enough by then."""


def done(table: Tabletop, task: Place, goal: Goal) -> bool:
    """Whether the object is in its place and the gripper well above it."""
    above = table.state()[2] - table.position(goal.target)[2] - table.scene[goal.target].half_height
    return task.holds(table, goal) and above >= RETREAT


def place_action(table: Tabletop, task: Place, goal: Goal) -> np.ndarray:
    """The action [7] that the expert would take now to bring the goal about."""
    assert goal.reference is not None
    action = np.zeros(7)
    held = table.grasped(goal.target)
    if task.rests(table, goal):
        # Let go first, then straight up.
        action[2], action[6] = 0.0 if held else RISE, -1.0
        return action
    if not held:
        return approach(table, goal.target)
    offset = (table.position(goal.reference) - table.position(goal.target))[:2]
    distance = float(np.hypot(*offset))
    # A funnel again; it ends a little below the surface, so that the object touches it.
    height = top(table, goal.reference) - 0.003 + np.clip((distance - OVER) * 3, 0, CARRY)
    rise = height - table.lift(goal.target)
    # Move sideways only at or above the funnel's height.
    action[:2] = np.clip(1.2 * offset, -0.03, 0.03) * np.clip((0.04 - rise) / 0.03, 0, 1)
    action[2], action[6] = np.clip(1.5 * rise, -0.02, 0.03), 1.0
    return limited(action)
