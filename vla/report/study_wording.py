"""Puts the result of a study into sentences and plain tables, the same ones on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Callable

from vla.report.intervals import Rate, percent
from vla.report.study_comparison import WITHOUT_GOAL, ArmAnswers, ArmOnSuite, StudyComparison, SuiteResult
from vla.report.study_plan import SHARED
from vla.report.wording import Table, aligned, points, rate, span

FEW = 3
"""With fewer seeds than this an interval may be too narrow; see docs/study.md."""


def headline(c: StudyComparison) -> str:
    """Returns one sentence: which arms do better than the baseline, as far as the intervals say so."""
    others = [arm.name for arm in c.arms if arm.name != c.baseline]
    if not others:
        return f"Only {c.baseline} has results yet"
    better = {name: _suites(c, name, lambda d: d.low > 0) for name in others}
    worse = {name: _suites(c, name, lambda d: d.high < 0) for name in others}
    if len(others) == 1:
        (name,) = others
        wins, losses, every = len(better[name]), len(worse[name]), len(c.suites)
        if wins and losses:
            return f"{name} beats {c.baseline} on {wins} of {every} suites, and loses on {losses}"
        if wins or losses:
            one, two = (name, c.baseline) if wins else (c.baseline, name)
            return f"{one} beats {two} on {wins or losses} of {every} suites" if every > 1 else f"{one} beats {two}"
        return f"The data do not separate {name} from {c.baseline}"
    winners = [name for name in others if better[name]]
    if winners:
        suites = "at least one suite" if len(c.suites) > 1 else c.suites[0].name
        return f"{_and(winners)} beat{'s' * (len(winners) == 1)} {c.baseline} on {suites}"
    losers = [name for name in others if worse[name]]
    return f"No arm beats {c.baseline}" if losers else f"The data separate no arm from {c.baseline}"


def sentences(c: StudyComparison) -> list[str]:
    """Returns the findings beside the headline, most important first."""
    findings = [_finding(c, arm.name) for arm in c.arms if arm.name != c.baseline]
    findings += [
        f"As declared, {arm.name} differs from {c.baseline} in its {SHARED[key]}: {two}, not {one}."
        for arm in c.arms
        for key, (one, two) in arm.differs.items()
    ]
    fewest = min(len(arm.seeds) for arm in c.arms)
    if fewest == 1:
        findings.append("An arm has one training only: its intervals are over scenes and say nothing of other trainings.")
    elif fewest < FEW:
        findings.append(f"With {fewest} trainings of an arm, intervals may be too narrow; use three or more seeds.")
    if len(c.suites) > 1:
        findings.append("Each interval stands for itself: of many differences, some exclude zero by chance.")
    if c.missing:
        findings.append(f"Not done yet: {_and(c.missing)}.")
    return findings


def _finding(c: StudyComparison, name: str) -> str:
    parts = []
    for word, chosen in (("better", lambda d: d.low > 0), ("worse", lambda d: d.high < 0)):
        if suites := _suites(c, name, chosen):
            texts = [f"{s.name} ({points(d)} points, {span(d)})" for s, d in suites]
            parts.append(f"{word} on {_and(texts)}")
    if apart := _suites(c, name, lambda d: d.low <= 0 <= d.high):
        parts.append(f"not separated on {_and([s.name for s, _ in apart])}")
    return f"{name} against {c.baseline}: {'; '.join(parts) or 'no common seed'}."


def _suites(c: StudyComparison, arm: str, chosen: Callable[[Rate], bool]) -> list[tuple[SuiteResult, Rate]]:
    """The suites on which the arm's difference from the baseline is chosen, with it."""
    found = [(suite, one.difference) for suite in c.suites for one in suite.arms if one.arm == arm]
    return [(suite, difference) for suite, difference in found if difference is not None and chosen(difference)]


def tables(c: StudyComparison) -> list[Table]:
    """Returns the tables that have rows: arms, success, differences, recognition, instructions, questions."""
    names = [arm.name for arm in c.arms]
    level = f"{100 * (1 - c.alpha):g}"
    result = [
        Table(
            "Arms",
            "Steps, and samples of robot data and of other data that one training draws. Minutes: of training, the mean.",
            ["arm", "seeds", "steps", "robot samples", "other samples", "minutes"],
            [
                [
                    arm.name,
                    " ".join(map(str, arm.seeds)),
                    str(arm.steps),
                    str(arm.robot_samples),
                    str(sum(arm.samples.values()) - arm.robot_samples),
                    "–" if arm.seconds is None else f"{arm.seconds / 60:.1f}",
                ]
                for arm in c.arms
            ],
        ),
        Table(
            "Success",
            f"Over all seeds and scenes, with {level} % intervals that account for both.",
            ["suite", "scenes", *names],
            [[suite.name, str(suite.scenes), *_each(suite, names, lambda one: rate(one.success))] for suite in c.suites],
        ),
    ]
    others = [name for name in names if name != c.baseline]
    if others:
        result.append(
            Table(
                f"Difference from {c.baseline}",
                f"In percentage points, paired by seed and scene, with {level} % intervals. Then in how many pairs only the arm "
                "succeeded : only the baseline.",
                ["suite", *others],
                [[suite.name, *_each(suite, others, _difference)] for suite in c.suites],
            )
        )
    result.append(
        Table(
            "Recognition",
            "The right thing was done first, as a share of the episodes in which anything was done.",
            ["suite", *names],
            [[suite.name, *_each(suite, names, lambda one: _share(one.recognition))] for suite in c.suites],
        )
    )
    kinds = [(suite, kind) for suite in c.suites for kind in suite.arms[0].kinds if len(suite.arms[0].kinds) > 1]
    if kinds:
        note = (
            f"Success; for {_and(list(WITHOUT_GOAL))} instructions, which ask for nothing, the share in which anything was done."
        )
        rows = [
            [f"{suite.name}, {kind}", *_each(suite, names, lambda one, k=kind: _share(one.kinds[k]))] for suite, kind in kinds
        ]
        result.append(Table("By instruction", note, ["suite", *names], rows))
    if c.questions:
        note = f"Shares of correct answers before and after training, and the change in points with its {level} % interval."
        rows = [[name, one.arm, *_shares(one)] for name, arms in c.questions.items() for one in arms]
        result.append(Table("Questions", note, ["questions", "arm", "before", "after", "change"], rows))
    return result


def _instructions(c: StudyComparison, names: list[str]) -> list[Table]:
    """The table of success by kind of instruction; none if there is one kind."""
    kinds = [(suite, kind) for suite in c.suites for kind in suite.arms[0].kinds]
    if len(kinds) == len(c.suites):
        return []
    note = f"Success; with {_and(list(WITHOUT_GOAL))} instructions, which ask for nothing, the share in which anything was done."
    rows = []
    for suite, kind in kinds:
        rows.append([f"{suite.name}, {kind}", *_each(suite, names, lambda one, kind=kind: _share(one.kinds[kind]))])
    return [Table("By instruction", note, ["suite", *names], rows)]


def text(c: StudyComparison) -> str:
    """Returns the whole result as text for a terminal."""
    lines = "\n".join(f"- {sentence}" for sentence in sentences(c))
    return "\n\n".join([f"{headline(c)}.", lines, *(f"{table.title}\n{aligned(table)}" for table in tables(c))])


def _each(suite: SuiteResult, names: list[str], show: Callable[[ArmOnSuite], str]) -> list[str]:
    by_arm = {one.arm: one for one in suite.arms}
    return [show(by_arm[name]) if name in by_arm else "–" for name in names]


def _shares(one: ArmAnswers) -> list[str]:
    before = "–" if one.before is None else rate(one.before)
    return [before, rate(one.after), "–" if one.change is None else f"{points(one.change)} ({span(one.change)})"]


def answers(one: ArmAnswers) -> str:
    """Returns the shares of correct answers before and after training, and the change."""
    if one.before is None or one.change is None:
        return f"{percent(one.after.rate)} ({percent(one.after.low)} to {percent(one.after.high)})"
    return f"{percent(one.before.rate)} → {percent(one.after.rate)} ({points(one.change)}: {span(one.change)})"


def _difference(one: ArmOnSuite) -> str:
    if one.difference is None:
        return "–"
    return f"{points(one.difference)} ({span(one.difference)}), {one.only[0]} : {one.only[1]}"


def _share(one: Rate) -> str:
    return rate(one) if one.n else "–"


def _and(names: list[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
