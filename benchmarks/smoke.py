"""Measures how long `vla demo --smoke` takes from start to end. Prints one JSON object."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BAR = 75
"""Seconds, on two cores."""


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "demo"
        command = [sys.executable, "-m", "vla", "demo", "--smoke", "--out", str(out)]
        began = time.perf_counter()
        process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        seconds = round(time.perf_counter() - began, 1)
        if process.returncode:
            print(process.stdout, file=sys.stderr)
            return process.returncode
        report = json.loads((out / "report.json").read_text())
    results = {key: report[key] for key in ("seconds", "peak_pss_mib", "commit", "hardware", "versions")}
    bars = {"smoke.seconds": {"value": seconds, "bar": f"<= {BAR}", "holds": seconds <= BAR}}
    print(json.dumps({"bars": bars, "command": "vla demo --smoke", **results}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
