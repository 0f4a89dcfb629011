"""Compares runs that are killed at random moments and resumed with uninterrupted runs. Prints one JSON object.

`resume.py CELL ...` runs a part of the slow tests of tests/training and records it; without a cell it validates the record and
repeats a short form.
"""

import argparse
import json
import time
from pathlib import Path

import recorded_tests

from vla.report.provenance import provenance

RESULTS = Path(__file__).parent / "results/resume.json"
CELLS = {
    "workers-0": ("test_resume.py", "killed_anywhere and [0-"),
    "workers-2": ("test_resume.py", "killed_anywhere and [2-"),
    "half-precision": ("test_resume.py", "half_precision"),
    "writing": ("test_resume.py", "while_it_writes"),
    "ddp": ("test_resume_ranks.py", "go_on_exactly and ddp"),
    "fsdp2": ("test_resume_ranks.py", "go_on_exactly and fsdp2"),
}
"""Name -> test file and pytest's expression for its tests: one rank's product of loader processes, accumulation and kind of save,
three times without loader processes; in bf16; while a checkpoint is written; sampled pairs of two ranks."""
SHORT = ("test_resume.py", "test_a_killed_run_goes_on_exactly")
POINTS, PRODUCT, PAIRS = 20, 2 * 2 * 4, 6


def run(file: str, wanted: str) -> dict:
    """Runs tests; returns where each run was killed, which runs did not end bit for bit the same, and the seconds."""
    began = time.monotonic()
    cases = {name.partition("[")[2].rstrip("]"): case for name, case in recorded_tests.run(f"training/{file}", wanted).items()}
    seconds = time.monotonic() - began
    killed = {}
    for name, case in cases.items():
        prefix = f"told at {case['told']}, then " if "told" in case else ""
        killed[name] = f"{prefix}killed at {case.get('killed')}"
    other = [name for name, case in cases.items() if not case["passed"]]
    same = len(cases) - len(other)
    return {"runs": len(cases), "same": same, "not_the_same": other, "seconds": round(seconds), "killed": killed}


def bars_of(recorded: dict[str, dict]) -> dict[str, dict]:
    """Returns the bars over the recorded cells."""
    runs, same = (sum(cell[key] for cell in recorded.values()) for key in ("runs", "same"))
    single = [name for cell in ("workers-0", "workers-2") for name in recorded.get(cell, {}).get("killed", {})]
    product = {name.rpartition("-")[0] for name in single}
    pairs = sum(recorded[cell]["runs"] for cell in ("ddp", "fsdp2") if cell in recorded)
    # A checkpoint cut off at a chosen point is not a random moment.
    points = runs - recorded.get("writing", {}).get("runs", 0)
    values = {
        "random kill points": (points, POINTS),
        "cells of one rank's product": (len(product), PRODUCT),
        "pairs with two ranks": (pairs, PAIRS),
        "share that ends bit for bit the same": (same / runs if runs else 0.0, 1),
    }
    return {name: {"value": value, "bar": f">= {bar}", "holds": value >= bar} for name, (value, bar) in values.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cells", nargs="*", metavar="CELL", help=f"to run and record: {', '.join(CELLS)}")
    options = parser.parse_args()
    if unknown := set(options.cells) - set(CELLS):
        parser.error(f"no cell {', '.join(unknown)}; there are {', '.join(CELLS)}")
    where = provenance()
    recorded = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for cell in options.cells:
        recorded[cell] = {**run(*CELLS[cell]), **where, "command": f"benchmarks/resume.py {cell}"}
        RESULTS.write_text(json.dumps(recorded, indent=1) + "\n")
    repeated = {} if options.cells else run(*SHORT)
    print(json.dumps({"bars": bars_of(recorded), "recorded": recorded, "repeated": repeated, **where}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
