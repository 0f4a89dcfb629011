"""Tasks by name: the tabletop's, and robosuite's own."""

from __future__ import annotations

from collections.abc import Iterable

from vla.errors import UserError
from vla.sim.tasks.base import Task
from vla.sim.tasks.lift import Lift
from vla.sim.tasks.place import Put, Stack
from vla.sim.tasks.push import Push
from vla.sim.tasks.stock import STOCK_TASKS, StockTask

TASKS: dict[str, Task] = {task.name: task for task in (Lift(), Put(), Push(), Stack())}
"""The tabletop's."""


def find_task(name: str) -> Task:
    """The tabletop's task of that name.

    Raises:
        UserError: there is none; it lists the known ones.
    """
    return _tabletop(name, TASKS)


def known_task(name: str) -> Task | StockTask:
    """The task of that name, the tabletop's or robosuite's.

    Raises:
        UserError: there is none; it lists the known ones.
    """
    return STOCK_TASKS[name] if name in STOCK_TASKS else _tabletop(name, [*TASKS, *STOCK_TASKS])


def _tabletop(name: str, known: Iterable[str]) -> Task:
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}", fix=f"one of: {', '.join(known)}")
    return TASKS[name]
