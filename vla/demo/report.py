"""Writes report.json, report.html and the demo's last lines on the terminal."""

from __future__ import annotations

import json
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
from vla.report.json_values import finite
from vla.report.plots import Metrics, read_metrics
from vla.report.provenance import provenance

STAGE_KEYS = ("said", "seconds", "peak_pss_mib", "interrupted", "commit")
"""Keys that every stage has beside its results."""
STARTS = {
    "success": "success.rate",
    "wrong object": "wrong_object.rate",
    "recognition, of the executed": "recognition.rate",
    "swapped instruction": "swapped_instruction.rate",
    "questions": "vqa.accuracy",
    "questions, blank picture": "vqa.blank_accuracy",
    "valid mass": "valid_mass",
}
"""The numbers by which two demos are compared: name -> key in report.json."""


def summarise(stages: Mapping[str, Mapping[str, Any]], start: str) -> dict[str, Any]:
    """Returns the content of report.json except for the total time and the bars.

    Args:
        stages: the results of the stages by name.
        start: the model from which training started.
    """
    rollout, questions, training = stages["rollout"], stages["questions"], stages["correct"]
    report = {
        **{key: value for key, value in rollout.items() if key not in (*STAGE_KEYS, "videos", "batch")},
        "vqa": questions["vqa"],
        "valid_mass": training["metrics"].get("val/valid_mass"),
        "training": training["metrics"],
        "collected": stages["collect"]["counts"],
        "served": stages["serve"]["same"],
        "seconds": {name: stage["seconds"] for name, stage in stages.items()},
        "peak_pss_mib": max(stage["peak_pss_mib"] for stage in stages.values()),
        # The seconds and the memory of these stages are those of their last attempt.
        "interrupted": [name for name, stage in stages.items() if stage["interrupted"]],
        "start": start,
        # Answers depend on the batch shape.
        "batch": {"questions": questions["batch"], "rollout": rollout["batch"]},
        **provenance(),
        "commit": training["commit"],
        "commits": {name: stage["commit"] for name, stage in stages.items()},
    }
    if "expert" in stages:
        report["expert"] = stages["expert"]["rate"]
    return report


def read_report(folder: str) -> dict[str, Any]:
    """Reads the report of another demo.

    Raises:
        UserError: there is none.
    """
    path = Path(folder) / "report.json"
    if not path.is_file():
        raise UserError("no report of a demo", str(path), "give the folder of a finished demo")
    return json.loads(path.read_text())


def finish(folder: Path, report: dict[str, Any], stages: Mapping[str, Mapping[str, Any]], other: dict[str, Any] | None) -> None:
    """Writes report.json and report.html and prints the results and what to do next.

    Args:
        report: the content of report.json.
        stages: the results of the stages by name.
        other: the report of another demo, shown beside this one.
    """
    if other:
        report["starting_points"] = {_name(one, one is other): _column(one) for one in (report, other)}
    report["bars"] = check(report)
    if report["interrupted"]:
        names = ", ".join(report["interrupted"])
        report["notes"] = [f"Interrupted during {names}: time and memory are those of the last attempt."]
    (folder / "report.json").write_text(json.dumps(finite(report), indent=1, allow_nan=False) + "\n")
    page = write_report(
        folder / "report.html",
        report,
        videos=[{**video, "path": folder / video["path"]} for video in stages["rollout"]["videos"]],
        samples=[{**sample, "image": folder / sample["image"]} for sample in stages["questions"]["samples"]],
        metrics=_metrics(folder),
    )
    for outcome in outcomes(report):
        if outcome.within_noise or not outcome.holds:
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
    print(f"  {vla} validate -c {folder}/demo-dagger.yaml --ckpt_path {folder}/train/checkpoints/last.ckpt")


def _metrics(folder: Path) -> Metrics:
    """The curves of both trainings, the second one's after the first one's last step."""
    first, second = (read_metrics(folder / name / "logs") for name in ("first", "train"))
    end = max(steps[-1] for steps, _ in first.values() if steps)
    for name, (steps, values) in second.items():
        all_steps, all_values = first.setdefault(name, ([], []))
        all_steps.extend(end + step for step in steps)
        all_values.extend(values)
    return first


def _name(report: Mapping[str, Any], other: bool) -> str:
    return f"from {report['start']}, {'the other run' if other else 'this run'}"


def _column(report: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {row: lookup(report, key) for row, key in STARTS.items()}
    return {**numbers, "episodes": report["success"]["n"], "minutes": round(report["seconds"]["total"] / 60, 1)}


def program() -> str:
    """Returns how the user can call this program again."""
    script = Path(sys.argv[0])
    return "vla" if shutil.which("vla") or script.name != "vla" else os.path.relpath(script)
