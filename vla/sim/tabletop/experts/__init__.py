"""Scripted experts for every task, from privileged state: functions of the current state only, so that their labels are clean
after any disturbance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vla.sim.tabletop.experts import grasp, place, push
from vla.sim.tabletop.tasks import TASKS
from vla.sim.tabletop.tasks.base import Goal
from vla.sim.tabletop.tasks.place import Place
from vla.sim.tabletop.tasks.push import Push

if TYPE_CHECKING:
    from vla.sim.tabletop.tabletop import Tabletop


def expert_action(table: Tabletop, goal: Goal) -> np.ndarray:
    """The action [7] that the task's expert would take now: metres, radians, gripper -1 open, +1 closed."""
    task = TASKS[goal.task]
    if isinstance(task, Place):
        return place.place_action(table, task, goal)
    if isinstance(task, Push):
        return push.push_action(table, task, goal)
    return grasp.lift_action(table, goal.target)


def at_work(table: Tabletop, goal: Goal) -> bool:
    """Whether the gripper has got to the goal's object: holds it, or is down to push it."""
    return push.is_down(table, goal) if isinstance(TASKS[goal.task], Push) else table.grasped(goal.target)


def done(table: Tabletop, goal: Goal) -> bool:
    """Whether the expert would terminate: the goal is reached and the gripper (or what it lifts) is well up."""
    task = TASKS[goal.task]
    if isinstance(task, Place):
        return place.done(table, task, goal)
    if isinstance(task, Push):
        return push.done(table, task, goal)
    return grasp.done(table, goal.target)
