"""The simulators, and which of them has a task or an embodiment.

A simulator of your own needs no change here: its package names its description as an entry point,

    [project.entry-points."vla.simulators"]
    mine = "my_simulator:SIMULATOR"

where `SIMULATOR` is a `vla.sim.simulator.Simulator`.
"""

from __future__ import annotations

import functools

from vla.contract import Embodiment
from vla.errors import UserError
from vla.plugins import load_object, plugins
from vla.sim.simulator import Simulator, TaskSpec
from vla.sim.variation import Json

SIMULATORS = (
    "vla.sim.tabletop.simulator:TABLETOP",
    "vla.sim.robosuite.simulator:ROBOSUITE",
    "vla.sim.libero.simulator:LIBERO",
)
"""The package's own, as "module:object"; a module is imported when a task is first looked up."""
MANY = 40
"""Tasks of one simulator above which an error names the first and the last."""
GROUP = "vla.simulators"
"""Entry points of this group are further simulators."""


@functools.cache
def simulators() -> tuple[Simulator, ...]:
    """All simulators.

    Raises:
        UserError: an installed one cannot be imported, or has a name or a task that another one has.
    """
    loaded: list[Simulator] = []
    for path in [*SIMULATORS, *plugins(GROUP).values()]:
        simulator: Simulator = load_object(path)
        for other in loaded:
            if taken := {simulator.name, *simulator.tasks} & {other.name, *other.tasks}:
                raise UserError(f"the names {', '.join(sorted(taken))} are taken by simulator {other.name}", path, "rename them")
        loaded.append(simulator)
    return tuple(loaded)


def task_names() -> list[str]:
    """The tasks of all simulators."""
    return [task for simulator in simulators() for task in simulator.tasks]


def known_tasks() -> str:
    """The tasks of all simulators as text; of one that has very many, the first and the last."""
    texts = []
    for simulator in simulators():
        names = list(simulator.tasks)
        texts += names if len(names) <= MANY else [f"{names[0]} … {names[-1]} ({len(names)} of {simulator.name})"]
    return ", ".join(texts)


def packaged_suites() -> dict[str, dict[str, Json]]:
    """The suites that simulators bring: name -> what a suite's YAML would hold."""
    return {name: dict(suite) for simulator in simulators() for name, suite in simulator.suites.items()}


def simulator_of(task: str) -> Simulator:
    """The simulator that has a task, or a set of questions, of that name.

    Raises:
        UserError: there is none; it lists the known tasks.
    """
    for simulator in simulators():
        if task in simulator.tasks or task in simulator.questions:
            return simulator
    raise UserError(f"unknown task {task!r}", fix=f"one of: {known_tasks()}")


def find_task(name: str) -> TaskSpec:
    """The task of that name.

    Raises:
        UserError: there is none; it lists the known ones.
    """
    for simulator in simulators():
        if name in simulator.tasks:
            return simulator.tasks[name]
    raise UserError(f"unknown task {name!r}", fix=f"one of: {known_tasks()}")


def embodiment_of(task: str) -> tuple[str, Embodiment]:
    """Name and description of the robot that a task is for."""
    return simulator_of(task).embodiment(task)


def task_for(embodiment: str, task: str = "") -> str:
    """The task to roll out for data of an embodiment: the one that the data names, else its simulator's first; "" is none.

    Args:
        task: as the data's card names it; one that no simulator has for this embodiment counts as unnamed.
    """
    fitting = [name for simulator in simulators() for name in simulator.tasks if simulator.embodiment(name)[0] == embodiment]
    return task if task in fitting else next(iter(fitting), "")
