"""Conditions of reinforcement learning compared over their seeds: areas under learning curves, and who improves on whom."""

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
from vla.report.learning import LearningRun
from vla.report.wording import Table, aligned

THRESHOLDS = np.linspace(0, 1, 41)
LAST = 5
"""Points of a curve, of its 25, that say how good a run is at its end."""


@dataclasses.dataclass(frozen=True)
class Condition:
    """One condition's runs.

    Attributes:
        runs: per task.
        area: interquartile mean of the areas under the learning curves.
        final: the same of success in the last fifth of a run.
        curve: [P] mean success of all runs, and its pointwise interval low [P], high [P].
        profile: share of runs whose area is above each of `THRESHOLDS`.
    """

    name: str
    runs: int
    area: Rate
    final: Rate
    curve: list[list[float]]
    profile: list[float]


@dataclasses.dataclass(frozen=True)
class Against:
    """The first condition against another one.

    Attributes:
        ratio: of the mean areas; its high end is infinite where the other may be 0.
        improvement: probability that a run of the first beats one of the other.
    """

    first: str
    second: str
    ratio: Rate
    improvement: Rate


@dataclasses.dataclass(frozen=True)
class LearningComparison:
    """All that `vla compare` says of learning curves; the first condition is the one that the others are compared with."""

    tasks: list[str]
    steps: int
    alpha: float
    conditions: list[Condition]
    against: list[Against]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: null for what is infinite."""
        return {"kind": "rl", **_finite(dataclasses.asdict(self))}


def compare_runs(runs: Sequence[LearningRun], alpha: float = 0.05) -> LearningComparison:
    """Compares conditions, in the order in which they first come.

    Raises:
        UserError: runs of different budgets, one twice, a condition without a task or with unequal numbers of seeds of its tasks,
            a single condition.
    """
    if not 0 < alpha < 1:
        raise UserError(f"alpha {alpha}", "compare", "give a number between 0 and 1, e.g. 0.05")
    names = list(dict.fromkeys(run.condition for run in runs))
    tasks = sorted({run.task for run in runs})
    if len(names) < 2:
        raise UserError(f"one condition, {names[0]!r}" if names else "no runs", "compare", "give runs of two or more")
    for task in tasks:
        budgets = {(run.budget, run.steps): run for run in runs if run.task == task}
        if len(budgets) > 1:
            one, other = list(budgets.values())[:2]
            raise UserError(
                f"{one.condition} (seed {one.seed}) and {other.condition} (seed {other.seed}) had different budgets",
                other.source,
                "compare runs of equal environment, steps and algorithm",
            )
    twice = [key for key, n in collections.Counter((r.condition, r.task, r.seed) for r in runs).items() if n > 1]
    if twice:
        raise UserError(f"{twice[0][0]} on {twice[0][1]}, seed {twice[0][2]}, is given twice", "compare", "each run counts once")
    grouped = {name: [[r for r in runs if (r.condition, r.task) == (name, task)] for task in tasks] for name in names}
    for name, parts in grouped.items():
        if differ := sorted({key for part in parts for key in _different(part)}):
            raise UserError(f"runs of {name} have different {', '.join(differ)}", "compare", "give each its own `condition`")
        if len({len(part) for part in parts}) > 1 or not parts[0]:
            counts = ", ".join(f"{task}: {len(part)}" for task, part in zip(tasks, parts, strict=True))
            raise UserError(f"{name} has unequal numbers of runs ({counts})", "compare", "give as many seeds of every task")
    areas = {name: table([[run.area() for run in part] for part in parts]) for name, parts in grouped.items()}
    level = 1 - alpha
    return LearningComparison(
        tasks=tasks,
        steps=runs[0].steps,
        alpha=alpha,
        conditions=[_condition(name, grouped[name], areas[name], level) for name in names],
        against=[
            Against(
                names[0],
                name,
                interval(ratio, areas[names[0]], areas[name], level=level),
                interval(improvement, areas[names[0]], areas[name], level=level),
            )
            for name in names[1:]
        ],
    )


def _different(runs: Sequence[LearningRun]) -> set[str]:
    """The options in which runs of one condition and task differ, as far as they say them."""
    told = [run.more["options"] for run in runs if "options" in run.more]
    return {key for one in told for key in one if key != "seed" and one[key] != told[0].get(key)}


def _condition(name: str, parts: list[list[LearningRun]], areas: np.ndarray, level: float) -> Condition:
    final = table([[float(run.curve()[-LAST:].mean()) for run in part] for part in parts])
    curves = np.array([[run.curve() for run in part] for part in parts])
    rng, (seeds, tasks) = np.random.default_rng(0), areas.shape
    places = rng.integers(0, seeds, (1000, tasks, seeds))
    drawn = curves[np.arange(tasks)[:, None], places].mean((1, 2))
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
    """One sentence: which others the first condition is better or worse than, as far as the seeds allow one."""
    better = [a.second for a in c.against if a.ratio.low > 1]
    worse = [a.second for a in c.against if a.ratio.high < 1]
    open_ = [a.second for a in c.against if a.second not in (*better, *worse)]
    parts = [("learns faster than", better), ("learns more slowly than", worse), ("is not separated from", open_)]
    return f"{c.conditions[0].name} " + "; ".join(f"{what} {', '.join(names)}" for what, names in parts if names)


def sentences(c: LearningComparison) -> list[str]:
    """What else there is to say."""
    level = f"{100 * (1 - c.alpha):g}"
    said = [
        f"Area under the learning curve, {a.first} over {a.second}: {_times(a.ratio)} ({level} % interval of the seeds); a run "
        f"of {a.first} beats one of {a.second} with probability {a.improvement.rate:.2f} "
        f"({a.improvement.low:.2f} to {a.improvement.high:.2f})."
        for a in c.against
    ]
    fewest = min(condition.runs for condition in c.conditions)
    if fewest < 5:
        said.append(f"With {fewest} runs of a condition an interval is too narrow as a rule; five or more are better.")
    return said


def tables(c: LearningComparison) -> list[Table]:
    """The conditions in numbers."""
    level = f"{100 * (1 - c.alpha):g}"
    rows = [[one.name, str(one.runs), _share(one.area), _share(one.final)] for one in c.conditions]
    note = (
        f"Interquartile means over runs with {level} % intervals (stratified bootstrap). Area: mean success over the whole run."
    )
    return [Table("Conditions", note, ["condition", "runs", "area", "last fifth"], rows)]


def text(c: LearningComparison) -> str:
    """The whole comparison for a terminal."""
    head = f"{', '.join(c.tasks)}: {c.steps:,} steps, {sum(one.runs for one in c.conditions)} runs"
    blocks = [head, f"{verdict(c)}.", "\n".join(f"- {s}" for s in sentences(c))]
    return "\n\n".join([*blocks, *(f"{one.title}\n{aligned(one)}" for one in tables(c))])


def _times(r: Rate) -> str:
    def said(x: float) -> str:
        return f"{x:.2f}" if math.isfinite(x) else "endless"

    return f"{said(r.rate)} times ({said(r.low)} to {said(r.high)})"


def _share(r: Rate) -> str:
    return f"{percent(r.rate)} % ({percent(r.low)} to {percent(r.high)})"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
