"""Which statistic an ordinal token should take: one policy, decoded by each, on the same scenes. Prints one JSON object.

`statistic.py --cell NAME --export FOLDER` measures a cell and writes benchmarks/results/statistic/NAME.json; it goes on where it
was stopped. `--suites` measures all shipped suites instead of many scenes like those of training. Without --cell, what is
recorded is merged and held against the bars, and ten scenes are repeated with runs/demo/export (run `make demo` first).
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from vla.evaluation import Evaluation, evaluate
from vla.report.intervals import wilson
from vla.report.proportions import Counts, difference, mcnemar
from vla.report.provenance import provenance
from vla.sim.suites import Suite, known_suites, load_suite
from vla.training.export import copy_with_decode

ROOT = Path(__file__).resolve().parents[1]
EXPORT, CELLS, RUNS = ROOT / "runs/demo/export", ROOT / "benchmarks/results/statistic", ROOT / "runs/statistic"
KINDS = ("correct", "swapped")
BARS = {"difference": 0.12, "difference_low": 0.07, "success": 0.88}


def measure(export: Path, suite: Suite, statistics: list[str], out: Path) -> dict[str, dict[str, str]]:
    """Kind of instruction -> statistic -> outcomes, a digit an episode, in the order of variations and seeds."""
    outcomes: dict[str, dict[str, str]] = {kind: {} for kind in suite.kinds}
    for statistic in statistics:
        copy = out / f"export-{statistic}"
        if not copy.is_dir():
            copy_with_decode(export, copy, statistic)
        record = evaluate(Evaluation(str(copy), suite, str(out / suite.name.replace("/", "-") / statistic)))
        for kind in suite.kinds:
            outcomes[kind][statistic] = "".join(str(int(e.success)) for e in record.episodes if e.kind == kind)
    return outcomes


def compare(first: str, second: str) -> dict:
    """Two rows of outcomes: both rates, the paired difference with its interval, how many only one of them has."""
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
    """Rows of outcomes one after the other, of the statistics that all parts have."""
    common = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: "".join(part[name] for part in parts) for name in common}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cell", default="", help="name of the cell to measure")
    parser.add_argument("--export", type=Path, default=EXPORT, help="the policy")
    parser.add_argument("--trained", default="", help="for people: how it was trained")
    parser.add_argument("--statistics", nargs="+", default=["mode", "median"])
    parser.add_argument("--episodes", type=int, default=120, help="scenes of each variation and kind of instruction")
    parser.add_argument("--suites", action="store_true", help="every shipped suite")
    options = parser.parse_args()
    if not options.export.is_dir():
        print(f"no {options.export}: run make demo", file=sys.stderr)
        return 2
    if options.cell:
        out = RUNS / options.cell
        names = known_suites() if options.suites else ["rt2/seen"]
        suites = [dataclasses.replace(load_suite(name, options.episodes), kinds=KINDS) for name in names]
        outcomes = {suite.name: measure(options.export, suite, options.statistics, out) for suite in suites}
        cell = {"trained": options.trained, "episodes": options.episodes, "outcomes": outcomes, **provenance()}
        CELLS.mkdir(parents=True, exist_ok=True)
        (CELLS / f"{options.cell}.json").write_text(json.dumps(cell, indent=1) + "\n")
        print(json.dumps({name: against_mode(joined(list(kinds.values()))) for name, kinds in outcomes.items()}, indent=1))
        return 0
    cells = {path.stem: json.loads(path.read_text()) for path in sorted(CELLS.glob("*.json"))}
    found = {
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
    print(json.dumps({"bars": bars, "pooled": pooled, "cells": found, "repeated": repeated, **provenance()}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
