"""What the demo says at its end: report.json, report.html and the last lines on the terminal."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla.errors import UserError
from vla.report.bars import check, lookup, outcomes
from vla.report.html import write_report
from vla.report.intervals import Rate
from vla.report.plots import read_metrics
from vla.report.provenance import provenance

STAGE = ("said", "seconds", "peak_pss_mib", "interrupted", "commit")
"""What every stage has beside what it found."""
STARTS = {
    "success": "success.rate",
    "wrong object": "wrong_object.rate",
    "recognition, of the executed": "recognition.rate",
    "swapped instruction": "swapped_instruction.rate",
    "questions": "vqa.accuracy",
    "questions, blank picture": "vqa.blank_accuracy",
    "valid mass": "valid_mass",
}
"""What two demos are compared by: its name and where it is in report.json."""


def summarise(done: Mapping[str, Mapping[str, Any]], start: str) -> dict[str, Any]:
    """What report.json holds, but for the total time and whether the bars hold.

    Args:
        done: the stages, each with what it found.
        start: what training started from.
    """
    rolled, asked = done["rollout"], done["questions"]
    report = {
        **{key: value for key, value in rolled.items() if key not in (*STAGE, "videos", "batch")},
        "vqa": asked["vqa"],
        "valid_mass": done["train"]["metrics"].get("val/valid_mass"),
        "training": done["train"]["metrics"],
        "collected": done["collect"]["counts"],
        "served": done["serve"]["same"],
        "seconds": {name: stage["seconds"] for name, stage in done.items()},
        "peak_pss_mib": max(stage["peak_pss_mib"] for stage in done.values()),
        # Their seconds and memory are those of the last attempt only.
        "interrupted": [name for name, stage in done.items() if stage["interrupted"]],
        "start": start,
        # Answers depend on the shape of their batch.
        "batch": {"questions": asked["batch"], "rollout": rolled["batch"]},
        **provenance(),
        "commit": done["train"]["commit"],
        "commits": {name: stage["commit"] for name, stage in done.items()},
    }
    if "expert" in done:
        report["expert"] = done["expert"]["rate"]
    return report


def read_report(folder: str) -> dict[str, Any]:
    """The report of another demo; UserError where there is none."""
    path = Path(folder) / "report.json"
    if not path.is_file():
        raise UserError("no report of a demo", str(path), "name the folder of one that is done")
    return json.loads(path.read_text())


def finish(folder: Path, report: dict[str, Any], done: Mapping[str, Mapping[str, Any]], other: dict[str, Any] | None) -> None:
    """Writes report.json and report.html and says how it ended.

    Args:
        other: report of another demo, shown beside this one.
    """
    if other:
        report["starting_points"] = {_name(one, one is other): _column(one) for one in (report, other)}
    report["bars"] = check(report)
    if report["interrupted"]:
        stages = ", ".join(report["interrupted"])
        report["notes"] = [f"Interrupted in {stages}: time and memory are those of the last attempt."]
    (folder / "report.json").write_text(json.dumps(_finite(report), indent=1, allow_nan=False) + "\n")
    page = write_report(
        folder / "report.html",
        report,
        videos=[{**video, "path": folder / video["path"]} for video in done["rollout"]["videos"]],
        samples=[{**sample, "image": folder / sample["image"]} for sample in done["questions"]["samples"]],
        metrics=read_metrics(folder / "train" / "logs"),
    )
    for outcome in outcomes(report):
        if outcome.noise or not outcome.holds:
            print(outcome)
    print("\n".join(report.get("notes", [])))
    vqa = report["vqa"]
    questions = Rate(vqa["accuracy"], vqa["n"], vqa["low"], vqa["high"])
    print(f"Result: success {Rate(**report['success'])}, questions {questions}")
    print(f"Report: {page}")
    vla = program()
    print("Next:")
    print(f'  {vla} rollout --policy {folder}/export --instruction "lift the green cube" --video out.mp4')
    print(f"  {vla} serve {folder}/export")
    print(f"  {vla} validate -c {folder}/demo.yaml --ckpt_path {folder}/train/checkpoints/last.ckpt")


def _finite(value: Any) -> Any:
    """The same with nothing (null) for numbers that are none: a share of no episodes."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _name(report: Mapping[str, Any], other: bool) -> str:
    return f"from {report['start']}, {'the other run' if other else 'this run'}"


def _column(report: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {row: lookup(report, key) for row, key in STARTS.items()}
    return {**numbers, "episodes": report["success"]["n"], "minutes": round(report["seconds"]["total"] / 60, 1)}


def program() -> str:
    """How the user can call this program again."""
    called = Path(sys.argv[0])
    return "vla" if shutil.which("vla") or called.name != "vla" else os.path.relpath(called)
