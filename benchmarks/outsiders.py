"""Other people's files, settings and clients: makes what public bug reports describe, runs the commands on it as a user would and
compares. Prints a table to standard error and one JSON object.

`outsiders.py lerobot "stale"` runs the cases whose area or name contains one of the words.
"""

import argparse
import concurrent.futures
import importlib
import json
import shutil
import sys
import tempfile
import textwrap
import time
import traceback
from pathlib import Path

from outside import command
from outside.trial import CASES, Case, Differs, Trial

AREAS = ("images", "tars", "streams", "questions", "lerobot_lists", "lerobot_tables", "lerobot_films", "lerobot_training", "rlds")
AREAS += ("hdf5", "cards", "settings", "resume", "models", "serving_openpi", "serving_http", "simulation")
MINUTES = 8
WIDTHS = (44, 24, 46, 60)
"""Of the columns case, seen, expected and got."""


def load_cases() -> list[Case]:
    """All cases, in the order of the areas."""
    for area in AREAS:
        importlib.import_module(f"outside.{area}")
    return CASES


def outcome(case: Case, root: Path) -> tuple[str, float]:
    """Runs a case; returns what came instead of the expected, "" if nothing did, and the seconds it took."""
    folder, began = Path(tempfile.mkdtemp(prefix=f"{case.area}-", dir=root)), time.perf_counter()
    try:
        case.run(Trial(folder))
        got = ""
    except Differs as error:
        got = str(error)
    except Exception as error:  # noqa: BLE001 (a fault of the case itself; the others go on)
        got = f"the case failed: {error!r} {traceback.format_exc(limit=-2)}"
    shutil.rmtree(folder, ignore_errors=True)
    return got.replace(str(folder), "."), time.perf_counter() - began


def table(rows: list[tuple[Case, str]]) -> str:
    """The cases with what was expected and what came, in columns; passed cases in one line each."""
    lines = []
    for area in dict.fromkeys(case.area for case, _ in rows):
        lines += ["", f"{area}:"]
        for case, got in rows:
            if case.area != area:
                continue
            cells = (case.name, case.seen, case.expected, got or "as expected")
            wrapped = [textwrap.wrap(cell, width) or [""] for cell, width in zip(cells, WIDTHS, strict=True)]
            for k in range(max(map(len, wrapped))):
                parts = [(cell[k] if k < len(cell) else "").ljust(width) for cell, width in zip(wrapped, WIDTHS, strict=True)]
                lines.append(("  " if k or not got else "! ") + "  ".join(parts).rstrip())
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="only cases whose area or name contains one of these words")
    parser.add_argument("--jobs", type=int, default=2, help="cases at once")
    parser.add_argument("--failed", action="store_true", help="list only the cases that are not as expected")
    options = parser.parse_args()
    command.prepare()
    chosen = [c for c in load_cases() if not options.words or any(w in f"{c.area} {c.name}" for w in options.words)]
    root, began = Path(tempfile.mkdtemp(prefix="outsiders-")), time.perf_counter()
    try:
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            results = list(pool.map(lambda case: outcome(case, root), chosen))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    seconds = time.perf_counter() - began
    rows = [(case, got) for case, (got, _) in zip(chosen, results, strict=True)]
    wrong = [row for row in rows if row[1]]
    print(table(wrong if options.failed else rows), file=sys.stderr)
    print(f"\n{len(rows) - len(wrong)} of {len(rows)} as expected, in {seconds:.0f} s", file=sys.stderr)
    from vla.report.provenance import provenance

    bars = {
        "cases as expected": {"value": len(rows) - len(wrong), "bar": f">= {len(rows)}", "holds": not wrong},
        "minutes on two cores": {"value": round(seconds / 60, 2), "bar": f"<= {MINUTES}", "holds": seconds <= 60 * MINUTES},
    }
    slowest = sorted(((case.name, round(took, 1)) for case, (_, took) in zip(chosen, results, strict=True)), key=lambda e: -e[1])
    measured = {
        "cases": {area: sum(c.area == area for c in chosen) for area in AREAS},
        "not as expected": {f"{case.area}: {case.name}": got for case, got in wrong},
        "slowest (s)": dict(slowest[:5]),
    }
    print(json.dumps({"bars": bars, "measured": measured, **provenance()}, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
