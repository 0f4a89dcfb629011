"""Writes report.html of an offline evaluation: verdict, errors beside the baselines, charts of actions, worst episodes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla.report.html import data_address, facts, track_percent, write_page
from vla.report.intervals import percent
from vla.report.offline import BASELINES, OfflineRecord, findings, verdict
from vla.report.settings import other_execute

PARTS = {
    "first_steps": ("First steps", "the first 5 steps of each episode, where the task is decided"),
    "gripper_changes": ("Around gripper changes", "2 steps before and after the demonstrated gripper moves"),
}


def write_offline(
    folder: Path, record: OfflineRecord, charts: Mapping[str, str] = {}, films: Sequence[Mapping[str, Any]] = ()
) -> Path:
    """Writes report.html beside results.json.

    Args:
        charts: title -> SVG of decoded over demonstrated actions.
        films: dicts with "path" (relative to the folder), "title" and "note".
    """
    summary = record.summary
    headline, *numbers = re.split(r"[:.] [Ii]ts error ", verdict(summary), maxsplit=1)
    return write_page(
        folder / "report.html",
        "offline.html",
        title=f"{record.policy} on {record.data['title']}",
        headline=headline,
        # A finding may begin with the name of a dimension, which stays as it is.
        notes=[f"Its error {after}." for after in numbers]
        + [f"{line}." for line in findings(summary)]
        + [f"Not as the policy is exported: {other}." for other in [other_execute(record)] if other],
        errors=_errors(summary),
        dimensions=_dimensions(summary),
        parts=[[*PARTS[part], *_row(summary[part])] for part in PARTS if summary.get(part)],
        positions=_positions(summary["positions"], record.execute),
        grippers=[_gripper(one) for one in summary["grippers"]],
        calibration=_calibration(summary["calibration"]),
        questions=_questions(summary.get("questions")),
        baselines=BASELINES,
        charts={title: data_address("image/svg+xml", svg.encode()) for title, svg in charts.items()},
        films=films,
        facts={
            "Policy": record.policy,
            "Contract": record.contract or "none",
            "Decoding": f"{record.decode}, {record.execute} actions executed of each chunk",
            "Data": f"{record.data['folder']}: {summary['episodes']} held-out episodes, {summary['steps']} steps",
            "Answers": f"{summary['calls']}, {summary['malformed']} of them malformed",
            "Jerk": "{policy:.3g}, demonstrations {demonstration:.3g} half ranges per step²".format(**summary["jerk"]),
            **facts(record.more),
        },
    )


def _errors(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns a row with a track for the policy and each baseline; the longest interval reaches the end of the track."""
    error = summary["error"]
    top = max(one["high"] for one in error.values()) or 1.0
    names = {"policy": ("The policy", "decoded actions, as they would be executed"), **{k: (v, "") for k, v in BASELINES.items()}}
    rows = []
    for name, (title, meaning) in names.items():
        one = error[name]
        position = {key: track_percent(one[part] / top) for key, part in (("at", "rate"), ("low", "low"), ("high", "high"))}
        interval = f"{one['low']:.3f} to {one['high']:.3f}"
        row = {"name": title[0].upper() + title[1:], "meaning": meaning, "value": f"{one['rate']:.3f}", "interval": interval}
        rows.append({**row, **position, "policy": name == "policy"})
    return rows


def _row(values: Mapping[str, float]) -> list[str]:
    return [f"{values[name]:.3f}" for name in ("policy", *BASELINES)]


def _dimensions(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": row["name"],
            "error": f"{row['error']:.3g} {row['unit']}".strip(),
            "cells": [f"{row['half_ranges']:.3f}", *(f"{row['baselines'][name]:.3f}" for name in BASELINES)],
            "worse": summary["episodes"] > 1 and row["difference"]["mean"]["low"] > 0,
        }
        for row in summary["dimensions"]
    ]


def _positions(errors: Sequence[float], execute: int) -> list[dict[str, Any]]:
    top = max(errors, default=0.0) or 1.0
    return [
        {"number": i + 1, "error": f"{error:.3f}", "share": round(100 * error / top, 1), "executed": i < execute}
        for i, error in enumerate(errors)
    ]


def _gripper(one: Mapping[str, Any]) -> dict[str, Any]:
    values = [f"{value:g}" for value in one["values"]]
    return {"name": one["name"], "values": values, "counts": one["counts"], "agreement": f"{percent(one['agreement'])} %"}


def _calibration(calibration: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if calibration is None:
        return None
    rows = [[f"{b['probability']:.2f}", f"{b['right']:.2f}", f"{b['n']:,}"] for b in calibration["bins"]]
    return {"error": f"{calibration['error']:.3f}", "rows": rows}


def _questions(questions: Mapping[str, Any] | None) -> list[list[str]]:
    if not questions:
        return []
    return [
        [kind, f"{percent(one['rate'])} %", f"{percent(one['low'])} to {percent(one['high'])} %", str(one["n"])]
        for kind, one in questions.items()
    ]
