"""Writes the page of a study: rates and differences with intervals, questions, curves and films."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla.report.html import data_address, facts, track_percent, write_page
from vla.report.intervals import Rate, percent
from vla.report.plots import bands
from vla.report.published import SOURCE, rt2_tables
from vla.report.study import CellRecord
from vla.report.study_comparison import ArmOnSuite, ArmSummary, StudyComparison, SuiteResult
from vla.report.study_plan import SHARED
from vla.report.study_wording import answers, headline, sentences, tables
from vla.report.wording import points, span

FIRST = ("success", "loss", "decoded_error")
"""Parts of the names of metrics that come first."""
SHOWN = 12
"""Largest number of charts."""


def write_study(
    path: Path, c: StudyComparison, cells: Sequence[CellRecord], films: Sequence[Mapping[str, Any]], origin: Mapping[str, Any]
) -> Path:
    """Writes the page into an existing folder.

    Args:
        cells: records, for the curves and for what was run.
        films: dicts with "path" (relative to the folder), "title" and "note".
        origin: where the page comes from, as `provenance` returns it.
    """
    seeds = sum(len(arm.seeds) for arm in c.arms)
    names = [arm.name for arm in c.arms]
    charts = arm_curves(cells, names)
    return write_page(
        path,
        "study.html",
        title=f"A study of {c.recipe}: {len(c.arms)} arms, {seeds} trainings",
        headline=headline(c),
        sentences=sentences(c),
        level=f"{100 * (1 - c.alpha):g}",
        baseline=c.baseline,
        arms=[_arm(arm, c.baseline) for arm in c.arms],
        suites=[_suite(suite) for suite in c.suites],
        differs=len(c.arms) > 1,
        questions=[
            {"name": name, "rows": [{"name": one.arm, **_track(one.after), "change": answers(one)} for one in arms]}
            for name, arms in c.questions.items()
        ],
        charts={title: data_address("image/svg+xml", svg.encode()) for title, svg in charts.items()},
        films=films,
        tables=tables(c),
        published=rt2_tables() if any(suite.name.startswith("rt2/") for suite in c.suites) else [],
        source=SOURCE,
        facts={
            "Trainings": _list(f"commit {cell.training['commit']}" for cell in cells),
            "Trained on": _list(cell.training["hardware"] for cell in cells),
            "Settings": _list(f"{cell.arm} {cell.config[:12]}" for cell in cells),
            "Suites": "; ".join(
                f"{n} {h[:12]}" for n, h in {(n, s.suite_hash) for cell in cells for n, s in cell.suites.items()}
            ),
            **facts(origin),
        },
    )


def arm_curves(cells: Sequence[CellRecord], arms: Sequence[str]) -> dict[str, str]:
    """Draws each held-out metric over the steps, a line for each arm: the mean of its seeds, with their range as a band.

    Where no arm has two points of a held-out metric, that of the training samples is drawn instead.

    Returns:
        name of the metric -> SVG text.
    """
    from matplotlib.ticker import EngFormatter

    metrics = sorted({name for cell in cells for name in cell.curves}, key=lambda name: (not any(p in name for p in FIRST), name))
    lines = {name: _lines([cell for cell in cells if name in cell.curves], name, arms) for name in metrics}
    lines = {name: one for name, one in lines.items() if any(len(line[0]) for line in one.values())}
    held_out = [name for name in lines if not name.startswith("train/")]
    rest = [name for name in lines if name.startswith("train/") and name.replace("train/", "val/") not in held_out]
    drawn = {}
    for name in [*held_out, *rest][:SHOWN]:
        share = max(max(line[1], default=0) for line in lines[name].values()) <= 1 and "loss" not in name and "error" not in name
        drawn[name] = bands(lines[name], "step", "", EngFormatter(sep=""), (3.6, 2.3), 1.02 if share else None)
    return drawn


def _lines(cells: Sequence[CellRecord], metric: str, arms: Sequence[str]) -> dict[str, tuple[np.ndarray, ...]]:
    """The line of each arm; empty for one that has none, so that an arm has one colour on all charts."""
    lines = {}
    for arm in arms:
        lines[arm] = (np.array([]), np.array([]))
        curves = [dict(zip(*cell.curves[metric], strict=True)) for cell in cells if cell.arm == arm]
        steps = sorted(set.intersection(*map(set, curves))) if curves else []
        if len(steps) > 1:
            values = np.array([[curve[step] for step in steps] for curve in curves])
            band = (values.min(0), values.max(0)) if len(values) > 1 else ()
            lines[arm] = (np.array(steps), values.mean(0), *band)
    return lines


def _arm(arm: ArmSummary, baseline: str) -> dict[str, Any]:
    declared = [f"{SHARED[key]}: {two} (baseline {one})" for key, (one, two) in arm.differs.items()]
    changes = [f"{name}: {new}" + (f" (recipe {old})" if len(old) < 60 else "") for name, (old, new) in arm.changes.items()]
    return {
        "name": arm.name,
        "about": arm.about,
        "baseline": arm.name == baseline,
        "facts": [
            f"{arm.steps} steps, {arm.robot_samples} robot samples, {sum(arm.samples.values()) - arm.robot_samples} others",
            f"seeds {', '.join(map(str, arm.seeds))}",
        ],
        "changes": changes or ["the recipe as it is"],
        "declared": declared,
    }


def _suite(suite: SuiteResult) -> dict[str, Any]:
    return {
        "name": suite.name,
        "about": f"{suite.about} ({suite.scenes} scenes, {suite.kind} instruction)".strip(),
        "rows": [{"name": one.arm, **_track(one.success), "seeds": _seeds(one)} for one in suite.arms],
        "differences": [{"name": one.arm, **_signed(one.difference, one.only)} for one in suite.arms if one.difference],
    }


def _seeds(one: ArmOnSuite) -> list[float]:
    """Positions of the seeds' own rates; none for a single one."""
    return [track_percent(share) for share in one.by_seed] if len(one.by_seed) > 1 else []


def _track(one: Rate) -> dict[str, Any]:
    return {
        "value": f"{percent(one.rate)} %",
        "at": track_percent(one.rate),
        "low": track_percent(one.low),
        "high": track_percent(one.high),
        "said": f"{percent(one.low)} to {percent(one.high)} %, n = {one.n}",
    }


def _signed(one: Rate, only: Sequence[int]) -> dict[str, Any]:
    """A difference on a track from -100 to +100 points."""
    places = {"at": one.rate, "low": one.low, "high": one.high}
    return {
        "value": points(one),
        **{key: track_percent((1 + place) / 2) for key, place in places.items()},
        "said": f"{span(one)}; only one succeeds {only[0]} : {only[1]}",
        "separated": one.low * one.high > 0,
    }


def _list(values: Any) -> str:
    return "; ".join(dict.fromkeys(map(str, values)))
