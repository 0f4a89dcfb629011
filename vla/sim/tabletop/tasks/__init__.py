"""The tabletop's tasks by name."""

from __future__ import annotations

from vla.errors import UserError
from vla.sim.tabletop.tasks.base import Task
from vla.sim.tabletop.tasks.lift import Lift
from vla.sim.tabletop.tasks.place import Put, Stack
from vla.sim.tabletop.tasks.push import Push

TASKS: dict[str, Task] = {task.name: task for task in (Lift(), Put(), Push(), Stack())}


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
        UserError: there is none; it lists the known ones.
    """
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}", fix=f"one of: {', '.join(TASKS)}")
    return TASKS[name]
