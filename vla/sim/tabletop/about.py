"""What a robot sample says of its state besides observation and action."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vla.sim.tabletop.questions import reach
from vla.sim.tabletop.tasks.base import Goal

if TYPE_CHECKING:
    from vla.sim.tabletop.tabletop import Tabletop


def about(table: Tabletop, goal: Goal, destinations: bool = False) -> dict[str, object]:
    """The names that the goal is about, and where its object is: in the front image, and from the gripper.

    Args:
        destinations: where the object belongs instead, once it is held to be put or stacked there.
    """
    leads_to = goal.target
    if destinations and goal.task in ("put", "stack") and goal.reference is not None and table.grasped(goal.target):
        leads_to = goal.reference
    reference = {} if goal.reference is None else {"reference": table.scene[goal.reference].name}
    return {
        "target": table.scene[goal.target].name,
        **reference,
        **({"side": goal.side} if goal.side else {}),
        "point": [round(c, 4) for c in table.project(leads_to)],
        "reach": reach(table, leads_to),
    }
