"""Measures one policy for four tasks, in scenes in which each of them is possible: the sentence decides what is done. Prints one
JSON object.

`tabletop.py --cell seedN` trains configs/tabletop.yaml with seed N, for at most 60 minutes, evaluates the policy on the suite
tabletop/four and writes benchmarks/results/tabletop/seedN.json; run again, it resumes. Missing demonstrations are collected
before, in about 25 minutes more. Without --cell the recorded cells are merged and compared with the bars, and two scenes of each
task are repeated with a policy that was trained here, if there is one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import vla  # noqa: F401  (before torch)

# isort: split
import yaml

from vla.checkpoint import read_checkpoint
from vla.evaluation.run import Evaluation, evaluate
from vla.report.intervals import Rate, mean, wilson
from vla.report.provenance import provenance
from vla.report.records import EpisodeRecord, Record
from vla.sim.collect import collect_with_progress
from vla.sim.collect_options import Collect
from vla.sim.suites import load_suite

ROOT = Path(__file__).resolve().parents[1]
CONFIG, CELLS, RUNS = ROOT / "vla/configs/tabletop.yaml", ROOT / "benchmarks/results/tabletop", ROOT / "runs/tabletop"
SUITE, MINUTES, SHORT = "tabletop/four", 60, 2
SUCCESS, WRONG = 0.6, 0.1


def trained(name: str) -> tuple[Path, float, int]:
    """Trains the recipe, or what is left of it; returns the export, the minutes that all of its training took, and the steps."""
    run, export = RUNS / name, RUNS / name / "export"
    if not (export / "contract.json").is_file():
        # Before the clock of the training starts.
        for options in yaml.safe_load(CONFIG.read_text())["collect"].values():
            if not (ROOT / options["out"] / "card.yaml").is_file():
                collect_with_progress(Collect(**{**options, "out": str(ROOT / options["out"]), "overwrite": True}))
        seed = name.removeprefix("seed")
        settings = [
            f"--seed_everything={seed}",
            f"--data.seed={seed}",
            f"--trainer.max_time=00:{MINUTES // 60:02}:{MINUTES % 60:02}:00",
        ]
        folders = [f"--trainer.default_root_dir={run}", f"--trainer.logger.init_args.save_dir={run}", f"--export={export}"]
        command = [sys.executable, "-m", "vla.cli", "fit", "-c", str(CONFIG), "--ckpt_path", "last", *settings, *folders]
        # Standard output is for the result.
        subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=True)
    checkpoint = read_checkpoint(str(run / "checkpoints/last.ckpt"), mmap=True)
    seconds = checkpoint["callbacks"]["Timer"]["time_elapsed"]["train"]
    return export, seconds / 60, checkpoint["global_step"]


def measured(record: Record) -> dict[str, Any]:
    """Task -> kind of instruction -> outcomes in the order of the scenes, a digit for each, and what was done how often."""
    groups: dict[str, dict[str, list[EpisodeRecord]]] = {}
    for episode in record.episodes:
        groups.setdefault(episode.task, {}).setdefault(episode.kind, []).append(episode)
    return {
        task: {
            kind: {
                "success": "".join(str(int(e.success)) for e in some),
                "wrong_task": "".join(str(int(bool(e.other_tasks))) for e in some),
                "done": dict(Counter(map(done, some)).most_common()),
            }
            for kind, some in kinds.items()
        }
        for task, kinds in groups.items()
    }


def done(episode: EpisodeRecord) -> str:
    """What was done in an episode: what was asked for, or the last goal of another task, or the class of failure."""
    if episode.success:
        return episode.task
    return episode.other_tasks[-1].partition(":")[0] if episode.other_tasks else episode.failure


def pooled(outcomes: Sequence[dict[str, Any]], kind: str) -> dict[str, Any]:
    """By task: success and wrong task over all cells; and the means over the tasks."""

    def rate(task: str, name: str) -> Rate:
        digits = "".join(one[task][kind][name] for one in outcomes)
        return wilson(digits.count("1"), len(digits))

    rates = {task: {name: rate(task, name) for name in ("success", "wrong_task")} for task in outcomes[0]}
    means = {name: mean([one[name] for one in rates.values()]) for name in ("success", "wrong_task")}
    return {
        task: {name: value.to_dict() for name, value in one.items()} for task, one in {**rates, "mean over tasks": means}.items()
    }


def bars_of(cells: dict[str, dict[str, Any]], merged: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The bars; without a cell none holds."""
    means = merged["correct"]["mean over tasks"] if merged else {}
    success, wrong = (means[name]["rate"] if means else None for name in ("success", "wrong_task"))
    longest = max((cell["training_minutes"] for cell in cells.values()), default=None)
    fewest = min((len(row["correct"]["success"]) for cell in cells.values() for row in cell["outcomes"].values()), default=0)
    return {
        "success, mean over tasks": bar(success, f">= {SUCCESS}", success is not None and success >= SUCCESS),
        "wrong task": bar(wrong, f"<= {WRONG}", wrong is not None and wrong <= WRONG),
        "minutes of training": bar(longest, f"<= {MINUTES}", longest is not None and longest <= MINUTES),
        "scenes per task": bar(fewest, ">= 40", fewest >= 40),
    }


def bar(value: float | None, text: str, holds: bool) -> dict[str, Any]:
    return {"value": value, "bar": text, "holds": holds}


def repeated() -> dict[str, Any]:
    """Two scenes of each task with a policy that was trained here; {} without one."""
    exports = sorted(RUNS.glob("seed*/export")) or sorted(RUNS.glob("export"))
    if not exports:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        record = evaluate(Evaluation(str(exports[0]), load_suite(SUITE, SHORT), folder))
    return {"policy": str(exports[0].relative_to(ROOT)), "outcomes": measured(record)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", default="", metavar="seedN", help="train with seed N, evaluate and record")
    options = parser.parse_args()
    if options.cell:
        if not options.cell.removeprefix("seed").isdigit():
            parser.error("--cell: name it seed0, seed1 …")
        where = provenance()
        export, minutes, steps = trained(options.cell)
        suite = load_suite(SUITE)
        record = evaluate(Evaluation(str(export), suite, str(RUNS / options.cell / "evaluation")))
        identity = {"suite_hash": suite.hash, "contract": record.contract, "weights": record.more["weights"]}
        cell = {"training_minutes": round(minutes, 1), "steps": steps, "outcomes": measured(record), **identity, **where}
        CELLS.mkdir(parents=True, exist_ok=True)
        (CELLS / f"{options.cell}.json").write_text(json.dumps(cell, indent=1) + "\n")
    cells = {path.stem: json.loads(path.read_text()) for path in sorted(CELLS.glob("*.json"))}
    for name, cell in cells.items():
        if cell["suite_hash"] != load_suite(SUITE).hash:
            raise SystemExit(f"{name}: recorded with another {SUITE}; measure it again")
    outcomes = [cell["outcomes"] for cell in cells.values()]
    merged = {kind: pooled(outcomes, kind) for kind in ("correct", "swapped")} if outcomes else {}
    again = {} if options.cell else repeated()
    result = {"bars": bars_of(cells, merged), "measured": merged, "cells": cells, "repeated": again, **provenance()}
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
