"""How long `vla demo --smoke` takes, all stages in little, from the program's start to its end. Prints one JSON object."""

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
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        seconds = round(time.perf_counter() - began, 1)
        if done.returncode:
            print(done.stdout, file=sys.stderr)
            return done.returncode
        report = json.loads((out / "report.json").read_text())
    found = {key: report[key] for key in ("seconds", "peak_pss_mib", "commit", "hardware", "versions")}
    bars = {"smoke.seconds": {"value": seconds, "bar": f"<= {BAR}", "holds": seconds <= BAR}}
    print(json.dumps({"bars": bars, "command": "vla demo --smoke", **found}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
