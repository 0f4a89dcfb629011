"""Evaluates the demo's policy on every shipped suite of lifting, with every control of the instruction. Prints one JSON object,
without bars.

`suites.py --record` measures and records all suites, or the given ones. Without it, the record is read and one scene of each
variation is repeated.

Reads runs/demo/export (run `make demo` first).
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from vla.evaluation.run import Evaluation, evaluate
from vla.report.provenance import provenance
from vla.sim.suites import known_suites, load_suite

ROOT = Path(__file__).resolve().parents[1]
EXPORT, RESULTS = ROOT / "runs/demo/export", ROOT / "benchmarks/results/suites.json"
SHORT = 1


def measure(name: str, episodes: int) -> dict:
    """Returns rates by kind of instruction and by variation, and language use."""
    with tempfile.TemporaryDirectory() as folder:
        record = evaluate(Evaluation(str(EXPORT), load_suite(name, episodes), folder))
    summary = record.more["summary"]
    return {
        "scenes": episodes,
        "suite_hash": record.suite_hash,
        "contract": record.contract,
        "weights": record.more["weights"],
        "language_use": summary["language_use"]["all"],
        "kinds": {kind: {key: rates[key] for key in ("success", "execution")} for kind, rates in summary["kinds"].items()},
        "variations": {one["variation"]: one["success"] for one in summary["groups"] if one["kind"] == "correct"},
        "minutes": round(record.more["run"]["seconds"] / 60, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", help="only these")
    parser.add_argument("--record", action="store_true", help="measure with --episodes and write benchmarks/results/suites.json")
    parser.add_argument("--episodes", type=int, default=10, help="scenes of each variation")
    options = parser.parse_args()
    if not EXPORT.is_dir():
        print(f"no {EXPORT.relative_to(ROOT)}: run make demo", file=sys.stderr)
        return 2
    names = options.suites or [name for name in known_suites() if load_suite(name).tasks == ("lift",)]
    recorded = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    trained = json.loads((ROOT / "runs/demo/report.json").read_text())["commit"]
    where = {"trained_at": trained, **provenance()}
    for name in names if options.record else []:
        recorded[name] = {**measure(name, options.episodes), **where}
        RESULTS.write_text(json.dumps(recorded, indent=1) + "\n")
    repeated = {} if options.record else {name: measure(name, SHORT) for name in names}
    print(json.dumps({"bars": {}, "recorded": recorded, "repeated": repeated, **where}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
