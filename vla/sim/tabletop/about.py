"""What a robot sample says of its state besides observation and action."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vla.sim.tabletop.experts import at_work
from vla.sim.tabletop.questions import reach
from vla.sim.tabletop.tasks.base import Goal

if TYPE_CHECKING:
    from vla.sim.tabletop.tabletop import Tabletop


def about(table: Tabletop, goal: Goal, destinations: bool = False) -> dict[str, object]:
    """The names that the goal is about, and where its object is: in the front image, and from the gripper.

    Args:
        destinations: what the object belongs on or beside instead, once the gripper holds it or is down to push it.
    """
    leads_to = goal.target
    if destinations and goal.reference is not None and at_work(table, goal):
        leads_to = goal.reference
    reference = {} if goal.reference is None else {"reference": table.scene[goal.reference].name}
    return {
        "target": table.scene[goal.target].name,
        **reference,
        **({"side": goal.side} if goal.side else {}),
        "point": [round(c, 4) for c in table.project(leads_to)],
        "reach": reach(table, leads_to),
    }
