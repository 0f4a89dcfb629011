"""LIBERO's and LIBERO-PRO's suites and tasks as data: sentences, goals, and the other goal of each scene.

`tasks.json` holds what the benchmark's files say, so that the tasks are known without the benchmark. In LIBERO's own suites a
task's sentence is that of its file name, as in published evaluations; in LIBERO-PRO's, whose file names keep the old sentences,
it is that of the BDDL file. The other goal is that of another task of the same scene, with its sentence: neither of the two
contains the other, and it does not hold at the start.
"""

from __future__ import annotations

import dataclasses
import json
from importlib import resources

from vla.sim.simulator import TaskSpec
from vla.sim.variation import Json

Condition = tuple[str, ...]
"""A predicate and its arguments, e.g. ("on", "plate_1", "flat_stove_1_cook_region")."""
STATES = 50
"""Initial states of each task."""
HORIZONS = {"spatial": 220, "object": 280, "goal": 300, "10": 520, "90": 400}
"""Steps by LIBERO's suite, as OpenVLA and openpi have them; LIBERO-PRO's suites have those of the suite that they change."""
CHANGES = {
    "lan": "the instruction in other words",
    "object": "objects of another look or size",
    "swap": "objects in one another's places",
    "task": "another goal in the same scene",
}
"""What LIBERO-PRO changes, by the end of its suites' names."""


@dataclasses.dataclass(frozen=True)
class Goal:
    """Conditions that must hold together, and the sentence that asks for them."""

    instruction: str
    conditions: tuple[Condition, ...]


@dataclasses.dataclass(frozen=True)
class LiberoTask(TaskSpec):
    """One task.

    Attributes:
        suite: e.g. "goal" or "goal-swap".
        folder, file: the folder of its suite, and the name of its files without the ending.
        goal: its goal.
        other: another goal of the same scene; None where no task has one.
    """

    suite: str = ""
    folder: str = ""
    file: str = ""
    goal: Goal = Goal("", ())
    other: Goal | None = None


def task_name(suite: str, number: int) -> str:
    """The name of a task, by which a user chooses it; the number is that of the benchmark, from 0."""
    return f"libero-{suite}-{number}"


def base_of(suite: str) -> str:
    """LIBERO's suite that a suite changes, or is."""
    return suite.partition("-")[0]


def _read() -> dict[str, LiberoTask]:
    data = json.loads(resources.files("vla.sim.libero").joinpath("tasks.json").read_text(encoding="utf-8"))
    tasks = {}
    for suite, content in data.items():
        for number, row in enumerate(content["tasks"]):
            name, other = task_name(suite, number), row.get("swapped")
            tasks[name] = LiberoTask(
                name,
                (row["instruction"],),
                HORIZONS[base_of(suite)],
                goals=1 + (other is not None),
                scenes=STATES,
                suite=suite,
                folder=content["folder"],
                file=row["file"],
                goal=_goal(row),
                other=_goal(other) if other else None,
            )
    return tasks


def _goal(data: dict[str, list[list[str]] | str]) -> Goal:
    return Goal(str(data["instruction"]), tuple(map(tuple, data["goal"])))


TASKS = _read()


def suites() -> dict[str, dict[str, Json]]:
    """The suites by name, e.g. "libero/goal-swap", as a suite's YAML would hold them."""
    by_suite: dict[str, list[Json]] = {}
    for task in TASKS.values():
        by_suite.setdefault(task.suite, []).append(task.name)
    return {f"libero/{suite}": _suite(suite, tasks) for suite, tasks in by_suite.items()}


def _suite(suite: str, tasks: list[Json]) -> dict[str, Json]:
    base, _, change = suite.partition("-")
    about = f"LIBERO-PRO: the tasks of libero/{base} with {CHANGES[change]}" if change else f"LIBERO's suite {base}"
    return {"about": about, "tasks": tasks, "variations": {"seen": None}, "kinds": ["correct"], "episodes": STATES}
