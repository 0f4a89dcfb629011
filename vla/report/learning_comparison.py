"""Compares conditions of reinforcement learning over their seeds, by the areas under their learning curves."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from vla.errors import UserError
from vla.report.few_runs import improvement, interquartile_mean, interval, profile, ratio, table
from vla.report.intervals import Rate, percent
from vla.report.json_values import finite
from vla.report.learning import LearningRun
from vla.report.wording import Table, aligned

THRESHOLDS = np.linspace(0, 1, 41)
LAST = 5
"""Number of a curve's last points (of 25) whose mean is the final success rate."""


@dataclasses.dataclass(frozen=True)
class Condition:
    """Results of one condition's runs.

    Attributes:
        runs: number of runs of all tasks.
        area: interquartile mean of the areas under the learning curves.
        final: interquartile mean of the success rates in the last fifth of a run.
        curve: [P] mean success rate of all runs, and the limits of its pointwise interval, low [P] and high [P].
        profile: share of runs whose area is above each of `THRESHOLDS`.
    """

    name: str
    runs: int
    area: Rate
    final: Rate
    curve: list[list[float]]
    profile: list[float]


@dataclasses.dataclass(frozen=True)
class ConditionPair:
    """The first condition against another one.

    Attributes:
        ratio: ratio of the mean areas; its upper limit is infinite if the other area may be 0.
        improvement: probability that a run of the first condition beats a run of the other.
    """

    first: str
    second: str
    ratio: Rate
    improvement: Rate


@dataclasses.dataclass(frozen=True)
class LearningComparison:
    """The result of `vla compare` for learning curves; all other conditions are compared with the first."""

    tasks: list[str]
    steps: int
    alpha: float
    conditions: list[Condition]
    against: list[ConditionPair]

    def to_dict(self) -> dict[str, Any]:
        """Returns the comparison as JSON holds it: infinite numbers become null."""
        return {"kind": "rl", **finite(dataclasses.asdict(self))}


def compare_runs(runs: Sequence[LearningRun], alpha: float = 0.05) -> LearningComparison:
    """Compares conditions, in the order of their first runs.

    Raises:
        UserError: there is only one condition, budgets differ, a run is given twice, or a condition lacks a task or has unequal
            numbers of seeds for its tasks.
    """
    if not 0 < alpha < 1:
        raise UserError(f"alpha is {alpha}", "compare", "give a number between 0 and 1, e.g. 0.05")
    names = list(dict.fromkeys(run.condition for run in runs))
    tasks = sorted({run.task for run in runs})
    if len(names) < 2:
        message = f"only one condition, {names[0]!r}" if names else "no runs"
        raise UserError(message, "compare", "give runs of two or more conditions")
    for task in tasks:
        budgets = {(run.budget, run.steps): run for run in runs if run.task == task}
        if len(budgets) > 1:
            one, other = list(budgets.values())[:2]
            raise UserError(
                f"{one.condition} (seed {one.seed}) and {other.condition} (seed {other.seed}) had different budgets",
                other.source,
                "compare runs with the same environment, steps and algorithm",
            )
    repeated = [key for key, n in collections.Counter((r.condition, r.task, r.seed) for r in runs).items() if n > 1]
    if repeated:
        condition, task, seed = repeated[0]
        raise UserError(f"{condition} on {task}, seed {seed}, is given twice", "compare", "give each run once")
    grouped = {name: [[r for r in runs if (r.condition, r.task) == (name, task)] for task in tasks] for name in names}
    for name, parts in grouped.items():
        if differ := sorted({key for part in parts for key in _differing_options(part)}):
            raise UserError(f"runs of {name} differ in {', '.join(differ)}", "compare", "give each its own `condition`")
        if len({len(part) for part in parts}) > 1 or not parts[0]:
            counts = ", ".join(f"{task}: {len(part)}" for task, part in zip(tasks, parts, strict=True))
            raise UserError(f"{name} has unequal numbers of runs ({counts})", "compare", "give equally many seeds of every task")
    areas = {name: table([[run.area() for run in part] for part in parts]) for name, parts in grouped.items()}
    level = 1 - alpha
    return LearningComparison(
        tasks=tasks,
        steps=runs[0].steps,
        alpha=alpha,
        conditions=[_condition(name, grouped[name], areas[name], level) for name in names],
        against=[
            ConditionPair(
                names[0],
                name,
                interval(ratio, areas[names[0]], areas[name], level=level),
                interval(improvement, areas[names[0]], areas[name], level=level),
            )
            for name in names[1:]
        ],
    )


def _differing_options(runs: Sequence[LearningRun]) -> set[str]:
    """Returns the options in which runs of one condition and task differ, as far as they record them."""
    recorded = [run.more["options"] for run in runs if "options" in run.more]
    return {key for options in recorded for key in options if key != "seed" and options[key] != recorded[0].get(key)}


def _condition(name: str, parts: list[list[LearningRun]], areas: np.ndarray, level: float) -> Condition:
    final = table([[float(run.curve()[-LAST:].mean()) for run in part] for part in parts])
    curves = np.array([[run.curve() for run in part] for part in parts])
    rng, (seeds, tasks) = np.random.default_rng(0), areas.shape
    indices = rng.integers(0, seeds, (1000, tasks, seeds))
    drawn = curves[np.arange(tasks)[:, None], indices].mean((1, 2))
    low, high = np.percentile(drawn, [50 * (1 - level), 50 * (1 + level)], axis=0)
    return Condition(
        name,
        areas.size,
        interval(interquartile_mean, areas, level=level),
        interval(interquartile_mean, final, level=level),
        [curves.mean((0, 1)).tolist(), low.tolist(), high.tolist()],
        profile(areas, THRESHOLDS).tolist(),
    )


def verdict(c: LearningComparison) -> str:
    """Returns one sentence: which others the first condition is better or worse than, as far as the seeds show it."""
    better = [a.second for a in c.against if a.ratio.low > 1]
    worse = [a.second for a in c.against if a.ratio.high < 1]
    undecided = [a.second for a in c.against if a.second not in (*better, *worse)]
    parts = [("learns faster than", better), ("learns more slowly than", worse), ("is not separated from", undecided)]
    return f"{c.conditions[0].name} " + "; ".join(f"{what} {', '.join(names)}" for what, names in parts if names)


def sentences(c: LearningComparison) -> list[str]:
    """Returns the findings beside the verdict."""
    level = f"{100 * (1 - c.alpha):g}"
    findings = [
        f"Ratio of the areas under the learning curve, {a.first} to {a.second}: {_number(a.ratio.rate)} ({level} % interval over "
        f"seeds {_number(a.ratio.low)} to {_number(a.ratio.high)}). A run of {a.first} beats a run of {a.second} with "
        f"probability {a.improvement.rate:.2f} ({a.improvement.low:.2f} to {a.improvement.high:.2f})."
        for a in c.against
    ]
    fewest = min(condition.runs for condition in c.conditions)
    if fewest < 5:
        findings.append(f"With only {fewest} runs per condition, intervals tend to be too narrow; use five or more.")
    return findings


def tables(c: LearningComparison) -> list[Table]:
    """Returns the conditions as a table."""
    level = f"{100 * (1 - c.alpha):g}"
    rows = [[one.name, str(one.runs), _share(one.area), _share(one.final)] for one in c.conditions]
    note = (
        f"Interquartile means over runs, with {level} % intervals (stratified bootstrap). Area: mean success over the whole run."
    )
    return [Table("Conditions", note, ["condition", "runs", "area", "last fifth"], rows)]


def text(c: LearningComparison) -> str:
    """Returns the whole comparison as text for a terminal."""
    head = f"{', '.join(c.tasks)}: {c.steps:,} steps, {sum(one.runs for one in c.conditions)} runs"
    blocks = [head, f"{verdict(c)}.", "\n".join(f"- {s}" for s in sentences(c))]
    return "\n\n".join([*blocks, *(f"{one.title}\n{aligned(one)}" for one in tables(c))])


def _number(x: float) -> str:
    return f"{x:.2f}" if math.isfinite(x) else "infinite"


def _share(r: Rate) -> str:
    return f"{percent(r.rate)} % ({percent(r.low)} to {percent(r.high)})"
