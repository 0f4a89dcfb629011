"""Checks the demo's bars: reads the report of `vla demo` in runs/demo and the recorded reports, and prints one JSON object."""

import json
import sys
from pathlib import Path

from vla.report.bars import check

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    path = ROOT / "runs/demo/report.json"
    if not path.is_file():
        print("no runs/demo/report.json: run make demo", file=sys.stderr)
        return 2
    report = json.loads(path.read_text())
    recorded = {p.stem: check(json.loads(p.read_text())) for p in sorted((ROOT / "benchmarks/results").glob("demo-*.json"))}
    keys = (
        "success",
        "execution",
        "recognition",
        "wrong_object",
        "swapped_instruction",
        "empty_instruction",
        "vqa",
        "valid_mass",
    )
    facts = {key: report[key] for key in (*keys, "seconds", "peak_pss_mib", "versions", "commit", "hardware") if key in report}
    print(json.dumps({"bars": check(report), "report": facts, "recorded": recorded}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
