"""Compares the arms of a study with its baseline, from the records of its cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vla.errors import UserError
from vla.report.comparison import CORRECT
from vla.report.intervals import Rate
from vla.report.json_values import finite
from vla.report.several_runs import pooled_difference, pooled_rate
from vla.report.study import CellRecord
from vla.report.study_outcomes import Outcomes, common_keys, failures_of
from vla.report.study_plan import SHARED, unequal

NAMED = 6
"""Number of differing settings that an error names."""
WITHOUT_GOAL = ("empty", "nonsense")
"""Kinds of instruction that ask for nothing: of them, the share of scenes in which anything was done is told."""


@dataclasses.dataclass(frozen=True)
class ArmSummary:
    """One arm.

    Attributes:
        seeds: of its cells.
        differs: key of `SHARED` -> the values of the baseline and of this arm, where they are unequal.
        changes: setting -> its value in the recipe and in the arm.
        samples: samples drawn of each source.
        seconds: of training, the mean over its cells; None if there are none.
    """

    name: str
    about: str
    seeds: list[int]
    differs: dict[str, list[str]]
    changes: dict[str, list[str]]
    steps: int
    samples: dict[str, int]
    robot_samples: int
    seconds: float | None


@dataclasses.dataclass(frozen=True)
class ArmOnSuite:
    """One arm on one suite, over all its seeds.

    Attributes:
        by_seed: success of each seed.
        success, recognition: with the suite's main kind of instruction; recognition is a share of the executed episodes.
        difference: success minus the baseline's, paired by seed and scene; None for the baseline, and without a common seed.
        only: numbers of such pairs in which only this arm, and only the baseline, succeeded.
        kinds: kind of instruction -> share of successes; of scenes in which anything was done if the kind asks for nothing.
        failures: class of failure -> number of episodes with the main kind.
    """

    arm: str
    seeds: list[int]
    by_seed: list[float]
    success: Rate
    recognition: Rate
    difference: Rate | None
    only: list[int]
    kinds: dict[str, Rate]
    failures: dict[str, int]


@dataclasses.dataclass(frozen=True)
class SuiteResult:
    """A suite: `scenes` of its main kind of instruction, `kind`, which every cell ran."""

    name: str
    about: str
    kind: str
    scenes: int
    arms: list[ArmOnSuite]


@dataclasses.dataclass(frozen=True)
class ArmAnswers:
    """The share of correct answers to a set of questions before and after training, and the change, paired by question.

    `before` and `change` are None where the training began with random weights. `types` has the shares by type of question.
    """

    arm: str
    before: Rate | None
    after: Rate
    change: Rate | None
    types: dict[str, list[Rate | None]]


@dataclasses.dataclass(frozen=True)
class StudyComparison:
    """The result of a study.

    Attributes:
        questions: name of a set of questions -> the arms' answers.
        missing: names of cells that have no record, or lack a suite.
    """

    recipe: str
    baseline: str
    alpha: float
    arms: list[ArmSummary]
    suites: list[SuiteResult]
    questions: dict[str, list[ArmAnswers]]
    missing: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Returns the comparison as JSON holds it."""
        return {"kind": "study", **finite(dataclasses.asdict(self))}


def compare_cells(
    cells: Sequence[CellRecord], baseline: str = "", missing: Sequence[str] = (), alpha: float = 0.05
) -> StudyComparison:
    """Compares the arms, in the order of their first records, with the baseline.

    Args:
        baseline: name of an arm; "" is the first.
        missing: names of cells that are planned and not done.

    Raises:
        UserError: there are no cells or none of the baseline, cells of one arm had other settings or data, an arm differs from
            the baseline in what it is not declared to differ in, or episodes with one key began differently.
    """
    arms: dict[str, list[CellRecord]] = {}
    for cell in cells:
        arms.setdefault(cell.arm, []).append(cell)
    baseline = baseline or next(iter(arms), "")
    if baseline not in arms:
        raise UserError(f"no cell of the baseline {baseline} is done" if baseline else "no cell is done", "study", "run one")
    for own in arms.values():
        check_alike(own)
        check_declared(arms[baseline][0], own[0])
    names = list(dict.fromkeys(name for cell in cells for name in cell.suites))
    asked = list(dict.fromkeys(name for cell in cells for name in cell.questions))
    level = 1 - alpha
    incomplete = [cell.name for cell in cells if set(names) - set(cell.suites)]
    return StudyComparison(
        recipe=cells[0].recipe,
        baseline=baseline,
        alpha=alpha,
        arms=[_summary(own, arms[baseline][0]) for own in arms.values()],
        suites=[_suite(name, arms, baseline, level) for name in names],
        questions={
            name: [_answers(arm, own, name, level) for arm, own in arms.items() if name in own[0].questions] for name in asked
        },
        missing=list(dict.fromkeys([*missing, *incomplete])),
    )


def check_alike(cells: Sequence[CellRecord]) -> None:
    """Raises UserError if cells of one arm had other settings or data; both are named."""
    first = cells[0]
    for cell in cells[1:]:
        if cell.config != first.config:
            what = f"{cell.name} was trained with other settings than {first.name}: {changed(first.settings, cell.settings)}"
            raise UserError(what, cell.source, "run one of them again, with --again")
        if different := unequal(first.plan, cell.plan):
            key, (one, two) = next(iter(different.items()))
            raise UserError(f"{cell.name} has {SHARED[key]} {two}, {first.name} {one}", cell.source, "train both on the same")


def check_declared(baseline: CellRecord, cell: CellRecord) -> None:
    """Raises UserError if a cell differs from the baseline's in what its arm is not declared to differ in."""
    for key, (one, two) in unequal(baseline.plan, cell.plan).items():
        if key not in cell.differs:
            fix = f"make them equal, or declare it: `differs: [{key}]`" if key != "robot" else "compare policies of one robot"
            raise UserError(f"{SHARED[key]}: {cell.arm} has {two}, {baseline.arm} has {one}", f"arm {cell.arm}", fix)


def changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Returns what differs between two configurations as text: the settings with both values."""
    values = [flat(settings) for settings in (one, other)]
    names = [name for name in dict.fromkeys([*values[0], *values[1]]) if values[0].get(name) != values[1].get(name)]
    texts = [f"{name} {values[0].get(name, 'off')} and {values[1].get(name, 'off')}" for name in names]
    return "; ".join([*texts[:NAMED], *([f"{len(texts) - NAMED} more"] if len(texts) > NAMED else [])])


def flat(settings: Any, name: str = "") -> dict[str, Any]:
    """Returns nested settings by their dotted names."""
    if not isinstance(settings, Mapping) or not settings:
        return {name: settings}
    return {key: value for part, inner in settings.items() for key, value in flat(inner, f"{name}.{part}".strip(".")).items()}


def _summary(cells: Sequence[CellRecord], baseline: CellRecord) -> ArmSummary:
    first = cells[0]
    return ArmSummary(
        name=first.arm,
        about=first.about,
        seeds=sorted(cell.seed for cell in cells),
        differs={key: list(values) for key, values in unequal(baseline.plan, first.plan).items()},
        changes=first.changes,
        steps=first.plan.steps,
        samples={name: source.samples for name, source in first.plan.sources.items()},
        robot_samples=first.plan.robot_samples,
        seconds=round(float(np.mean([cell.training["seconds"] for cell in cells])), 1),
    )


def _suite(name: str, arms: Mapping[str, Sequence[CellRecord]], baseline: str, level: float) -> SuiteResult:
    ran = {arm: sorted((c for c in own if name in c.suites), key=lambda c: c.seed) for arm, own in arms.items()}
    every = [cell for own in ran.values() for cell in own]
    if len({cell.suites[name].suite_hash for cell in every}) > 1:
        where = " and ".join(sorted({cell.name for cell in every}))
        raise UserError(f"versions of the suite {name} differ", where, "run the cells again; they are only evaluated again")
    kinds = list(dict.fromkeys(group.kind for cell in every for group in cell.suites[name].groups))
    main = CORRECT if CORRECT in kinds else kinds[0]
    keys = {kind: common_keys(name, kind, every) for kind in kinds}
    tables = {arm: {kind: Outcomes.of(own, name, keys[kind]) for kind in kinds} for arm, own in ran.items() if own}
    results = []
    for arm, own in tables.items():
        seeds, outcomes = [cell.seed for cell in ran[arm]], own[main]
        both = [seed for seed in seeds if seed in [cell.seed for cell in ran[baseline]]]
        pairs = None
        if arm != baseline and both:
            rows = [[c.seed for c in ran[one]].index(seed) for one in (arm, baseline) for seed in both]
            pairs = outcomes.success[rows[: len(both)]], tables[baseline][main].success[rows[len(both) :]]
        results.append(
            ArmOnSuite(
                arm=arm,
                seeds=seeds,
                by_seed=[round(float(row.mean()), 4) for row in outcomes.success],
                success=pooled_rate(outcomes.success, level=level),
                recognition=pooled_rate(outcomes.right, outcomes.executed, level),
                difference=pooled_difference(*pairs, level) if pairs else None,
                only=[int((pairs[0] & ~pairs[1]).sum()), int((~pairs[0] & pairs[1]).sum())] if pairs else [],
                kinds={k: pooled_rate(one.executed if k in WITHOUT_GOAL else one.success, level=level) for k, one in own.items()},
                failures=failures_of(ran[arm], name, main),
            )
        )
    return SuiteResult(name, every[0].suites[name].about, main, len(keys[main]), results)


def _answers(arm: str, cells: Sequence[CellRecord], name: str, level: float) -> ArmAnswers:
    asked = [cell.questions[name] for cell in cells if name in cell.questions]
    types = sorted(asked[0])
    if any({k: len(one[k]["after"]) for k in one} != {k: len(asked[0][k]["after"]) for k in types} for one in asked):
        raise UserError(f"the cells of {arm} were asked other questions of {name}", f"arm {arm}", "run them again")
    after = {kind: _table([one[kind]["after"] for one in asked]) for kind in types}
    begun = all(one[kind]["before"] for one in asked for kind in types)
    before = {kind: _table([one[kind]["before"] for one in asked]) for kind in types} if begun else None
    every = np.concatenate([*after.values()], 1)
    earlier = None if before is None else np.concatenate([*before.values()], 1)
    return ArmAnswers(
        arm=arm,
        before=None if earlier is None else pooled_rate(earlier, level=level),
        after=pooled_rate(every, level=level),
        change=None if earlier is None else pooled_difference(every, earlier, level),
        types={
            k: [None if before is None else pooled_rate(before[k], level=level), pooled_rate(after[k], level=level)]
            for k in types
        },
    )


def _table(rows: Sequence[str]) -> np.ndarray:
    return np.array([[digit == "1" for digit in row] for row in rows], bool)
