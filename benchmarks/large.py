"""Measures large models with random weights on one GPU: samples per second and MFU of `vla fit`'s loop, in full and with
adapters, and how fast an action is written against the time that its bytes and operations need. Prints one JSON object.

Each measurement is a process of its own, so that one does not hold the memory of another. Without a GPU, or with `--toy`, the
same code runs on small models.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from vla.report.provenance import provenance

HERE = Path(__file__).parent
BATCHES = {("paligemma-3b", "lora"): 32, ("paligemma-3b", "full"): 16, ("openvla-7b", "lora"): 16, ("openvla-7b", "full"): 8}
RANK = 16
AIMS = {"mfu": 0.5, "hz": 25.0}


def measure(script: str, *arguments: str) -> dict[str, Any]:
    """The JSON of a script; {"failed": its last line} if it fails."""
    done = subprocess.run([sys.executable, HERE / script, *arguments], capture_output=True, text=True)
    print(f"{script} {' '.join(arguments)}: exit {done.returncode}", file=sys.stderr)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="small models: does it run?")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of a training")
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    began, toy = time.monotonic(), ["--toy"] if options.toy or not cuda else []
    results: dict[str, Any] = {}
    for (name, way), batch in BATCHES.items():
        size = [f"--batch={2 if toy else batch}", f"--steps={options.steps}", f"--rank={RANK if way == 'lora' else 0}"]
        measured = measure("train.py", f"--structure={name}", *size, *toy)
        results[f"{name}, {way}"] = measured.get("measured", measured)
    for name in ("paligemma-3b", "openvla-7b"):
        measured = measure("decode.py", f"--structure={name}", *toy)
        results[f"{name}, decoding"] = measured.get(name, measured)
    bars = {f"{name}: MFU (aim)": result.get("mfu") for name, result in results.items() if "decoding" not in name}
    bars |= {"openvla-7b: actions per second (aim)": results["openvla-7b, decoding"].get("hz")}
    aims = {name: AIMS["mfu" if "MFU" in name else "hz"] for name in bars}
    shown = {
        name: {"value": value, "bar": f">= {aims[name]}", "holds": value is not None and value >= aims[name]}
        for name, value in bars.items()
    }
    device = torch.cuda.get_device_name() if cuda else "cpu"
    seconds = round(time.monotonic() - began)
    record = {"bars": shown, **results, "seconds": seconds, "toy": bool(toy), "device": device, **provenance()}
    print(json.dumps(record, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
