"""Measures PR2L: what prompted states cost, and what heads learn from them.

    pr2l.py                  the cost (eight environments in one call against one at a time, a warm cache against no
                             representation), beside what `merge` says
    pr2l.py cells [NAME…]    trains what is not yet in results/pr2l: a cell is one configuration with one seed
    pr2l.py probes           what a linear map reads off each condition's states
    pr2l.py table            the demo's policy against the tabletop's heads of seed 0
    pr2l.py merge            all cells in one summary

Prints one JSON object. Cost is measured with the packaged `tiny`, which knows the tabletop's questions, cells of BabyAI are of
`tiny-babyai`; those of the tabletop need the data of `make demo`. Run again, an interrupted command resumes.
"""

import argparse
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from stable_baselines3.common.vec_env import DummyVecEnv

from vla.demo.processes import VLA, Interrupted, interruptible
from vla.errors import UserError
from vla.models.load import load_vlm
from vla.promptable.cache import CachedRepresentation
from vla.promptable.prompts import PromptTemplate
from vla.promptable.representation import PromptableRepresentation, Settings
from vla.report.intervals import wilson
from vla.report.learning import LearningRun, load_run
from vla.report.learning_comparison import compare_runs
from vla.report.provenance import provenance
from vla.report.records import load
from vla.rl.envs.babyai import BabyAI
from vla.rl.envs.observation import EnvironmentObservation
from vla.rl.runs.compose import read_options
from vla.systems.pr2l.correlation import correlations
from vla.systems.pr2l.observation import PromptedObservation
from vla.systems.pr2l.probing import probe_all
from vla.systems.pr2l.table import table

ROOT = Path(__file__).resolve().parents[1]
CONFIGS, RESULTS, RUNS = ROOT / "vla/configs/rl", ROOT / "benchmarks/results/pr2l", ROOT / "runs/pr2l"
PROBES, TABLE = RESULTS / "probes.json", RESULTS / "table.json"
EXPORT = ROOT / "runs/demo/export"
ENVIRONMENTS, STEPS = 8, 60
TASK = "BabyAI-GoToLocal-v0"
LEVEL = functools.partial(BabyAI, TASK)
PROMPT = PromptTemplate("Q: where is the {object}? A:")
CORE = ("task", "image-encoder", "irrelevant", "no-generation", "answer-bit", "oracle-bit")
OTHERS = ("chain-of-thought", "leaking", "no-prompt", "random")
TABLETOP = ("tabletop-bc", "tabletop-iql", "tabletop-bc-pixels")
REFERENCE = "tabletop-ppo-oracle-bit"
SHORT, LONG = 25_000, 50_000
"""Steps of a cell: FEW if MANY would take more than `MINUTES`, because less than `ENOUGH` came from the cache."""
ENOUGH, MINUTES = 0.6, 12
"""Share of a cell's states; minutes of one core."""
RATIOS = {"image-encoder": 1.3, "irrelevant": 1.15}
"""Limits of the ratios of areas under the learning curve, the task's prompt to others."""
SUITE = {"tasks": ["lift"], "episodes": 50, "horizon": 80, "kinds": ["correct"], "variations": {"seen": {}}}
"""The suite for the tabletop's policies: scenes of `rt2/seen` without its controls."""


def medians(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Returns the median seconds of each call without the first; calls alternate, so that a slow minute affects all."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def batching(rounds: int = 60) -> dict[str, float]:
    """Returns seconds per observation for reading and generating: in one call for eight environments, and one at a time."""
    vlm = load_vlm("tiny", dtype=torch.float32)
    rng = np.random.default_rng(0)
    images = [[rng.integers(0, 255, (64, 64, 3), np.uint8)] for _ in range(ENVIRONMENTS)]
    fields = [{"object": "red ball"}] * ENVIRONMENTS
    runs = {}
    for batch in (1, ENVIRONMENTS):
        for tokens in (0, 8):
            represent = PromptableRepresentation(*vlm, PROMPT, Settings(tokens=tokens, batch=batch))
            runs[f"{batch} at a time, {tokens} tokens"] = functools.partial(represent, images, fields)
    return {name: seconds / ENVIRONMENTS for name, seconds in medians(runs, rounds).items()}


def replay(representation: CachedRepresentation | None) -> float:
    """Returns steps per second of eight environments with fixed seeds and actions."""
    observation = PromptedObservation() if representation else EnvironmentObservation()
    made = observation.wrap(DummyVecEnv([LEVEL] * ENVIRONMENTS), representation, BabyAI.fields)
    rng = np.random.default_rng(0)
    made.seed(0)
    made.reset()
    began = time.perf_counter()
    for _ in range(STEPS):
        made.step(rng.integers(0, 3, ENVIRONMENTS))
    taken = time.perf_counter() - began
    made.close()
    return ENVIRONMENTS * STEPS / taken


def cost() -> dict[str, Any]:
    """Measures times on this machine and checks their bars."""
    taken = batching()
    cached = CachedRepresentation(PromptableRepresentation(*load_vlm("tiny"), PROMPT, Settings()))
    cold = replay(cached)
    first = cached.hits.rate
    plain, warm = (statistics.median(speeds) for speeds in zip(*((replay(None), replay(cached)) for _ in range(7)), strict=True))
    one, eight = "1 at a time", f"{ENVIRONMENTS} at a time"
    decode = (taken[f"{one}, 8 tokens"] - taken[f"{one}, 0 tokens"]) / (taken[f"{eight}, 8 tokens"] - taken[f"{eight}, 0 tokens"])
    values = {
        "decode phase, 8 environments in one call over one at a time": (decode, 3.0),
        "whole, 8 environments in one call over one at a time": (taken[f"{one}, 8 tokens"] / taken[f"{eight}, 8 tokens"], 1.5),
        "steps/s with a warm cache over no representation": (warm / plain, 0.5),
    }
    return {
        "bars": {
            n: {"value": round(value, 3), "bar": f">= {least}", "holds": value >= least} for n, (value, least) in values.items()
        },
        "seconds per observation": {name: round(value, 5) for name, value in taken.items()},
        "steps/s": {"no representation": round(plain, 1), "cold cache": round(cold, 1), "warm cache": round(warm, 1)},
        "hit rate while cold": round(first, 3),
        "threads": 1,
    }


def config(name: str) -> list[str]:
    """Returns `-c BASE -c OVERLAY …` of a condition: a name of BabyAI's, or e.g. tabletop-bc or tabletop-bc-pixels."""
    base, learner, condition = (*name.split("-", 2), "")[:3] if name.startswith("tabletop-") else ("babyai", "", name)
    names = [base, f"learners/{learner}", f"conditions/{condition}", f"prompts/{base}/{condition}"]
    files = [file for one in names if (file := CONFIGS / f"{one}.yaml").is_file()]
    if len(files) != 1 + bool(learner) + bool(condition):
        raise UserError(f"no condition {name!r}", str(CONFIGS.relative_to(ROOT)), f"e.g. {', '.join(CORE)}")
    return [part for file in files for part in ("-c", str(file))]


def next_command(name: str, seed: int, folder: Path) -> list[str]:
    """Returns the next command for a cell; nothing if it is done."""
    fit = ["fit", *config(name), "--seed", str(seed), "--out", str(folder)]
    if read_options(config(name)).learner.data:
        if not (folder / "export/rl.json").is_file():
            return ["rl", *fit]
        evaluation = ["--suite", suite(), "--workers", "1", "--out", str(folder / "seen")]
        return [] if (folder / "seen/results.json").is_file() else ["rollout", "--policy", str(folder / "export"), *evaluation]
    if not (folder / "results.json").is_file():
        return ["rl", *fit, "--budget.steps", str(SHORT)]
    run = load_run(folder)
    over = run.more["cpu_seconds"] / 60 > MINUTES * run.steps / LONG
    slow = over and run.more["cache"] and run.more["cache"]["rate"] < ENOUGH
    return [] if slow or run.steps >= LONG else ["rl", *fit, "--budget.steps", str(LONG)]


def suite() -> str:
    """Writes `SUITE` to a file for commands and returns its path."""
    RUNS.mkdir(parents=True, exist_ok=True)
    file = RUNS / "suite.yaml"
    file.write_text(yaml.safe_dump(SUITE))
    return str(file)


def train(names: list[str], seeds: int, workers: int) -> None:
    """Trains the missing cells, several at a time; each call of `vla` is a process with one thread."""
    cells = [(name, seed) for seed in range(seeds) for name in names if not (RESULTS / f"{name}-{seed}.json").is_file()]
    how: dict[str, Any] = {"cwd": ROOT, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "stdout": sys.stderr}
    running: dict[tuple[str, int], subprocess.Popen] = {}
    try:
        while cells or running:
            for cell in [cell for cell, process in running.items() if process.poll() is not None]:
                if running.pop(cell).returncode:
                    raise SystemExit(f"{cell[0]}, seed {cell[1]}: its process ended with an error; the same command goes on")
                cells.insert(0, cell)
            while cells and len(running) < workers:
                name, seed = cells.pop(0)
                folder = RUNS / f"{name}-{seed}"
                if command := next_command(name, seed, folder):
                    print("vla", *command, file=sys.stderr, flush=True)
                    running[name, seed] = subprocess.Popen([*VLA, *command], **how)
                else:
                    keep(name, seed, folder)
            time.sleep(0.5)
    finally:
        for process in running.values():
            process.terminate()
            process.wait()


def keep(name: str, seed: int, folder: Path) -> None:
    """Writes a cell: a run's record for `vla compare` with its curve, or the success of a head that learned from data."""
    if (folder / "results.json").is_file():
        run = load_run(folder)
        cell = json.loads((folder / "results.json").read_text())
        cell = {key: value for key, value in cell.items() if key not in ("returns", "lengths", "command")}
        cell |= {"core_minutes": round(run.more["cpu_seconds"] / 60, 2), "hit_rate": run.more["cache"].get("rate")}
        cell |= {"area": run.area(), "last_fifth": last_fifth(run), "curve": run.curve().round(4).tolist()}
    else:
        evaluated, export = load(folder / "seen"), json.loads((folder / "export/rl.json").read_text())
        outcomes = [episode.success for episode in evaluated.episodes if episode.kind == "correct"]
        success = wilson(sum(outcomes), len(outcomes))
        cell = {"kind": "pr2l-offline", "condition": name, "seed": seed, "success": success.to_dict(), "model": export["model"]}
        cell |= {key: value for key, value in export["more"].items() if key not in ("options", "command")}
        cell["options"] = {key: value for key, value in export["more"]["options"].items() if key not in ("out", "cache", "steps")}
        cell |= {"suite": evaluated.suite, "suite_hash": evaluated.suite_hash}
    files = [f"configs/rl/{Path(part).relative_to(CONFIGS)}" for part in config(name) if part != "-c"]
    cell |= {"config": " ".join(files), "cell": f"benchmarks/pr2l.py cells {name} --seeds {seed + 1}"}
    RESULTS.mkdir(parents=True, exist_ok=True)
    unfinished = RESULTS / f".{name}-{seed}"
    unfinished.write_text(json.dumps(cell) + "\n")
    unfinished.replace(RESULTS / f"{name}-{seed}.json")


def last_fifth(run: LearningRun) -> float:
    return float(run.curve()[-5:].mean())


def merge() -> dict[str, Any]:
    """Merges all cells and probes, and lists the missing cells."""
    cells = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*-[0-9]*.json"))}
    for name, cell in cells.items():
        check(name, cell)
    probes = json.loads(PROBES.read_text())["probes"] if PROBES.is_file() else []
    wanted = [*((name, 5) for name in CORE), *((name, 3) for name in (*OTHERS, *TABLETOP)), (REFERENCE, 1)]
    results: dict[str, Any] = {
        "bars": bars_of([], probes),
        "missing": [f"{name}-{seed}" for name, seeds in wanted for seed in range(seeds) if f"{name}-{seed}" not in cells],
        "models": sorted({cell["model"] for cell in cells.values() if cell["model"]}),
        "learning": {},
        "offline": {},
        "probes": probes,
        "table": json.loads(TABLE.read_text()) if TABLE.is_file() else None,
    }
    runs = [load_run(RESULTS / f"{name}.json") for name, cell in cells.items() if cell["kind"] == "rl"]
    for task in sorted({run.task for run in runs}):
        # If some cells have fewer steps, only the first steps of the others count.
        steps = min(run.steps for run in runs if run.task == task)
        order = sorted((run.until(steps) for run in runs if run.task == task), key=lambda run: run.condition != "task")
        results["learning"][task] = summary(order, steps)
        if task == TASK:
            results["bars"] |= bars_of(order, probes)
    for name in dict.fromkeys(cell["condition"] for cell in cells.values() if cell["kind"] != "rl"):
        mine = [cell for cell in cells.values() if cell["kind"] != "rl" and cell["condition"] == name]
        rates = [cell["success"]["rate"] for cell in mine]
        results["offline"][name] = {"seeds": rates, "success": statistics.mean(rates), "scenes": mine[0]["success"]["n"]}
    areas = {name: one["area"] for conditions in results["learning"].values() for name, one in conditions.items()}
    results["correlations"] = correlations(probes, areas)
    return results


def check(name: str, cell: dict[str, Any]) -> None:
    """Raises UserError if a cell was made with other options than its configuration has now, except for its steps."""
    now = {**read_options(config(name.rpartition("-")[0])).identity(), "seed": cell["seed"]}
    different = sorted(key for key, value in cell["options"].items() if key in now and now[key] != value)
    if different:
        raise UserError(
            f"{name} was made with another {', '.join(different)}", cell["config"], "remove the cell and train it again"
        )


def summary(runs: list[LearningRun], steps: int) -> dict[str, Any]:
    """Returns each condition's area under the learning curve, success in the last fifth and cost, for one task."""
    grouped = {name: [run for run in runs if run.condition == name] for name in dict.fromkeys(run.condition for run in runs)}
    return {
        name: {
            "seeds": [run.seed for run in mine],
            "steps": steps,
            "area": statistics.mean(run.area() for run in mine),
            "areas": [round(run.area(), 4) for run in mine],
            "last_fifth": statistics.mean(last_fifth(run) for run in mine),
            "core_minutes": max(run.more["core_minutes"] for run in mine),
            "hit_rate": min((run.more["cache"]["rate"] for run in mine if run.more["cache"]), default=None),
        }
        for name, mine in grouped.items()
    }


def bars_of(runs: list[LearningRun], probes: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the bars. An unknown value does not hold; a ratio holds only if its whole interval is above 1 too."""
    results = {}
    known = {one.second: one.ratio for one in compare_runs(runs).against} if {"task"} < {run.condition for run in runs} else {}
    for name, least in RATIOS.items():
        ratio, bar = known.get(name), {"bar": f">= {least}, its interval above 1"}
        value = {
            "value": ratio and ratio.rate,
            "low": ratio and ratio.low,
            "high": ratio and ratio.high,
            "seeds": ratio and ratio.n,
        }
        holds = bool(ratio) and ratio.rate >= least and ratio.low > 1
        results[f"area under the learning curve, task over {name}"] = {**value, **bar, "holds": holds}
    present = {one["condition"]: max(one["present"].values()) for one in probes}
    task, other = present.get("task"), present.get("irrelevant")
    lead = None if task is None or other is None else task - other
    for name, value, least in (("task prompt", task, 0.9), ("task prompt minus irrelevant prompt", lead, 0.1)):
        holds = value is not None and value >= least
        results[f"linear probe of the prompted attribute, {name}"] = {"value": value, "bar": f">= {least}", "holds": holds}
    return results


def tabletop() -> None:
    """Makes the table of the co-fine-tuned model and the heads on the same episodes."""
    # The table says policies' folders: not where this one is.
    os.chdir(ROOT)
    heads = [RUNS / f"{name}-0/export" for name in TABLETOP]
    there = [str(path.relative_to(ROOT)) for path in (EXPORT, *heads) if (path / "contract.json").is_file()]
    print(table(there, suite(), out=str(RUNS / "table")), file=sys.stderr)
    shutil.copy(RUNS / "table/table.json", TABLE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("all", "cells", "probes", "table", "merge"), default="all")
    parser.add_argument("names", nargs="*", help=f"conditions; without any {', '.join(CORE)}")
    parser.add_argument("--seeds", type=int, default=5, help="cells of each condition")
    parser.add_argument("--workers", type=int, default=2, help="cells at a time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "cells":
        train(options.names or list(CORE), options.seeds, options.workers)
    if options.what == "probes":
        conditions = [read_options(config(name)) for name in options.names or (*CORE, *OTHERS)]
        asking = [one for one in conditions if "states" in one.observation.observe]
        print(probe_all(asking, out=str(PROBES), page=str(RUNS / "probes.html")), file=sys.stderr)
    if options.what == "table":
        tabletop()
    costs, merged = cost() if options.what == "all" else {"bars": {}}, merge()
    print(json.dumps({**merged, **costs, "bars": {**costs["bars"], **merged["bars"]}, **provenance()}, indent=1))
    return 0


if __name__ == "__main__":
    try:
        with interruptible():
            sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
    except Interrupted as signal:
        sys.exit(f"{signal}: the same command goes on")
