"""Compares the statistics by which ordinal tokens can be decoded: one policy, decoded by each, on the same scenes.

`statistic.py --cell NAME --export FOLDER` measures a cell and writes benchmarks/results/statistic/NAME.json; run again, it
resumes. `--suites` measures all shipped suites of lifting instead of many scenes like those of training. `--figure` draws
docs/ordinal.png and prints each statistic's error on held-out steps. Without these options, the recorded cells are merged and
compared with the bars, and ten scenes are repeated with runs/demo/export (run `make demo` first). Prints one JSON object.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from vla.contract import PolicyContract, Statistic
from vla.datasets.robot import RobotSource
from vla.evaluation.run import Evaluation, evaluate
from vla.models.decoding.choose import ordinal_choice
from vla.models.logprobs import scored
from vla.policies.local import LocalPolicy
from vla.report.intervals import wilson
from vla.report.plots import COLOURS, STYLE
from vla.report.proportions import Counts, difference, mcnemar
from vla.report.provenance import provenance
from vla.sim.suites import Suite, known_suites, load_suite
from vla.training.export import copy_with_decode

ROOT = Path(__file__).resolve().parents[1]
EXPORT, CELLS, RUNS = ROOT / "runs/demo/export", ROOT / "benchmarks/results/statistic", ROOT / "runs/statistic"
KINDS = ("correct", "swapped")
BARS = {"difference": 0.12, "difference_low": 0.07, "success": 0.88}


def measure(export: Path, suite: Suite, statistics: list[str], out: Path) -> dict[str, dict[str, str]]:
    """Returns kind of instruction -> statistic -> outcomes, one digit per episode, in the order of variations and seeds."""
    outcomes: dict[str, dict[str, str]] = {kind: {} for kind in suite.kinds}
    for statistic in statistics:
        copy = out / f"export-{statistic}"
        if PolicyContract.load(export).decode == statistic:
            copy = export
        else:
            # Replaces an earlier one; an evaluation of other weights is refused below.
            copy_with_decode(export, copy, statistic)
        record = evaluate(Evaluation(str(copy), suite, str(out / suite.name.replace("/", "-") / statistic)))
        for kind in suite.kinds:
            outcomes[kind][statistic] = "".join(str(int(e.success)) for e in record.episodes if e.kind == kind)
    return outcomes


def distributions(export: Path, data: Path, steps: int) -> list[tuple[str, np.ndarray, int]]:
    """Returns every ordinal token of held-out chunks, given the true tokens before it: dimension, probabilities of its bins, and
    the true bin."""
    policy = LocalPolicy.from_export(export, device="cpu")
    examples, contract = policy.encoder, policy.contract
    source = RobotSource(str(data), chunk=contract.chunk, split="val", holdout=0.05)
    names = [*["terminate"] * contract.terminate, *contract.embodiment().action.names] * contract.chunk
    results = []
    for number in np.linspace(0, len(source) - 1, steps).astype(int):
        batch = examples.batch([examples.robot(source.sample(int(number), np.random.default_rng(0)))])
        places = scored(batch.labels)
        with torch.inference_mode():
            logits = examples.family.score(policy.model, batch.inputs, places)[examples.plan.length() :]
        truth = batch.labels[:, 1:][places[:, :-1]][examples.plan.length() :]
        codec = examples.codec()
        for name, ordinal, legal, row, true in zip(names, codec.ordinal(), codec.positions(), logits, truth, strict=False):
            if ordinal:
                ids = torch.tensor(examples.vocabulary.symbols_to_ids(legal))
                results.append((name, row[ids].softmax(-1).numpy(), int((ids == true).nonzero())))
    return results


def errors(results: list[tuple[str, np.ndarray, int]]) -> dict[str, dict[str, float]]:
    """Returns the error in bins of each statistic, and of the mean of the distribution."""
    chosen = {
        statistic: np.array([int(ordinal_choice(torch.tensor(shares).log(), statistic)) for _, shares, _ in results])
        for statistic in get_args(Statistic)
    }
    chosen["mean"] = np.array([(shares * np.arange(len(shares))).sum() for _, shares, _ in results])
    off = {name: np.abs(values - [true for *_, true in results]) for name, values in chosen.items()}
    return {name: {"mean": float(row.mean()), "rms": float((row**2).mean() ** 0.5)} for name, row in off.items()}


def draw(results: list[tuple[str, np.ndarray, int]], path: Path) -> None:
    """Draws one distribution with its mode, its median and the truth.

    It is the one at the 9th decile of the distance between mode and median, among those whose mode is at an end of the range.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ends = [one for one in results if one[1].argmax() in (0, 1, len(one[1]) - 2, len(one[1]) - 1)]
    apart = [abs(int(shares.argmax()) - int((shares.cumsum() < 0.5).sum())) for _, shares, _ in ends]
    name, shares, true = ends[int(np.argsort(apart)[int(0.9 * len(apart))])]
    marks = {
        "mode": (int(shares.argmax()), COLOURS[1]),
        "median": (int((shares.cumsum() < 0.5).sum()), COLOURS[0]),
        "demonstrated": (true, "#1f2933"),
    }
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(7, 2.4), dpi=150)
        axes.bar(np.arange(len(shares)), shares, width=1.0, color="#9fb3c8")
        for label, (value, colour) in marks.items():
            style = ":" if label == "demonstrated" else "-"
            axes.axvline(value, color=colour, linewidth=1.5, linestyle=style, label=f"{label}: bin {value}")
        axes.legend(frameon=False, loc="upper left" if marks["mode"][0] > len(shares) / 2 else "upper right")
        axes.set(xlabel=f"bin of {name}", ylabel="probability", xlim=(-2, len(shares) + 1))
        figure.tight_layout()
        figure.savefig(path)


def compare(first: str, second: str) -> dict:
    """Compares two rows of outcomes: both rates, the paired difference with its interval, and the successes that only one has."""
    one, two = (np.array(list(row)) == "1" for row in (first, second))
    counts = Counts.of(one, two)
    return {
        "rates": [wilson(int(row.sum()), len(row)).to_dict() for row in (one, two)],
        "difference": difference(counts).to_dict(),
        "only_first": counts.first,
        "only_second": counts.second,
        "mcnemar": mcnemar(counts.first, counts.second),
    }


def against_mode(rows: dict[str, str]) -> dict:
    return {name: compare(row, rows["mode"]) for name, row in rows.items() if name != "mode"}


def joined(parts: list[dict[str, str]]) -> dict[str, str]:
    """Concatenates rows of outcomes, for the statistics that all parts have."""
    common = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: "".join(part[name] for part in parts) for name in common}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cell", default="", help="name of the cell to measure")
    parser.add_argument("--export", type=Path, default=EXPORT, help="the policy")
    parser.add_argument("--trained", default="", help="a note: how it was trained")
    parser.add_argument("--statistics", nargs="+", default=["mode", "median"])
    parser.add_argument("--episodes", type=int, default=120, help="scenes of each variation and kind of instruction")
    parser.add_argument("--suites", action="store_true", help="every shipped suite of lifting")
    parser.add_argument("--figure", action="store_true", help="draw docs/ordinal.png")
    parser.add_argument("--data", type=Path, default=ROOT / "runs/demo/data/robot", help="for the figure")
    options = parser.parse_args()
    if "mode" not in options.statistics:
        parser.error("--statistics: the mode is what the others are compared with")
    if not options.export.is_dir():
        print(f"no {options.export}: run make demo", file=sys.stderr)
        return 2
    if options.figure:
        torch.set_num_threads(1)
        results = distributions(options.export, options.data, 400)
        draw(results, ROOT / "docs/ordinal.png")
        print(json.dumps({"tokens": len(results), "off by, in bins": errors(results), **provenance()}, indent=1))
        return 0
    if options.cell:
        out = RUNS / options.cell
        lifting = [name for name in known_suites() if load_suite(name).tasks == ("lift",)]
        names = lifting if options.suites else ["rt2/seen"]
        suites = [dataclasses.replace(load_suite(name, options.episodes), kinds=KINDS) for name in names]
        outcomes = {suite.name: measure(options.export, suite, options.statistics, out) for suite in suites}
        cell = {"trained": options.trained, "episodes": options.episodes, "outcomes": outcomes, **provenance()}
        CELLS.mkdir(parents=True, exist_ok=True)
        (CELLS / f"{options.cell}.json").write_text(json.dumps(cell, indent=1) + "\n")
        print(json.dumps({name: against_mode(joined(list(kinds.values()))) for name, kinds in outcomes.items()}, indent=1))
        return 0
    cells = {path.stem: json.loads(path.read_text()) for path in sorted(CELLS.glob("*.json"))}
    results = {
        name: {suite: {kind: against_mode(rows) for kind, rows in kinds.items()} for suite, kinds in cell["outcomes"].items()}
        for name, cell in cells.items()
    }
    seeds = [rows for name, cell in cells.items() if name.startswith("seed") for rows in cell["outcomes"]["rt2/seen"].values()]
    pooled = against_mode(joined(seeds)) if seeds else {}
    median = pooled.get("median", {"difference": {"rate": None, "low": None}, "rates": [{"rate": None}] * 2})
    values = {
        "difference": median["difference"]["rate"],
        "difference_low": median["difference"]["low"],
        "success": max((rate["rate"] for rate in median["rates"]), key=lambda rate: rate or 0),
    }
    bars = {
        name: {"value": values[name], "bar": bar, "holds": values[name] is not None and values[name] >= bar}
        for name, bar in BARS.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        suite = dataclasses.replace(load_suite("rt2/seen", 10), kinds=KINDS)
        repeated = against_mode(joined(list(measure(options.export, suite, options.statistics, Path(folder)).values())))
    print(json.dumps({"bars": bars, "pooled": pooled, "cells": results, "repeated": repeated, **provenance()}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
