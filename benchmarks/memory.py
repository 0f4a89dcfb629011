"""Compares the memory that `vla fit` predicts with what a step takes on a CPU, for toys of public models of 100 M parameters.

Each measurement is a process of its own: the highest resident size during three steps, above the size that the process has with
its libraries loaded and the batch made. glibc is told to give memory back at once (MALLOC_MMAP_THRESHOLD_), so that what is freed
is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BAR = 0.2
ROWS, IMAGES, WORDS, ANSWER = 4, 2, 48, 16
WAYS = ("full", "checkpointed", "lora")
WIDTHS = {
    "paligemma": {"hidden": 768, "layers": 13, "heads": 8, "key_heads": 1, "vision": 512, "vision_layers": 12, "words": 16384},
    "qwen2.5-vl": {"hidden": 768, "layers": 12, "heads": 12, "key_heads": 2, "vision": 512, "vision_layers": 12, "words": 16384},
    "smolvlm": {"hidden": 768, "layers": 14, "heads": 12, "key_heads": 4, "vision": 512, "vision_layers": 12, "words": 16384},
}


def resident(kind: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most since the last reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) * 1024


def measure(name: str, way: str) -> dict[str, float]:
    """Prediction and measurement of one case, in this process."""
    import vla  # noqa: F401  (before torch)

    # isort: split
    import numpy as np
    import torch

    from benchmarks import published
    from vla.models.adapters import Lora, add_lora
    from vla.models.families.find import family_of
    from vla.models.inputs import PREFIX, ModelInputs
    from vla.training.footprint import step_peak
    from vla.training.optimizer import make_optimizer, parameter_groups

    torch.manual_seed(0)
    # One small step first: libraries allocate what they need once.
    warm = torch.nn.Linear(512, 512)
    warm(torch.randn(512, 512)).sum().backward()
    make_optimizer("adamw", [{"params": list(warm.parameters())}], fused=True).step()
    step_peak(warm, lambda m: m(torch.randn(2, 512)).sum())
    del warm
    before = resident("VmRSS")
    model, processor = published.make(name, published.Toy(**WIDTHS[name]))
    family = family_of(model, processor)
    if way == "checkpointed":
        model.gradient_checkpointing_enable()
    model = add_lora(model, Lora(rank=16, rows=[]) if way == "lora" else Lora()).train()
    pictures = [np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)] * IMAGES
    row = [i for ids in family.image_ids([(224, 224)] * IMAGES) for i in ids] + list(range(300, 300 + WORDS))
    ids = torch.tensor([row] * ROWS)
    group = torch.full_like(ids, PREFIX)
    group[:, -ANSWER:] = 0
    inputs = ModelInputs(ids, torch.ones_like(ids), dict(family.images([pictures] * ROWS)), group, torch.zeros_like(ids))
    scored = group == 0
    targets = ids[scored]

    def loss(m):
        return torch.nn.functional.cross_entropy(family.score(m, inputs, scored).float(), targets)

    learning = [p for p in model.parameters() if p.requires_grad]
    weights = sum(v.nbytes for v in [*model.parameters(), *model.buffers()])
    predicted = weights + sum(2 * p.nbytes for p in learning) + step_peak(model, loss)
    optimizer = make_optimizer("adamw", parameter_groups(model, 1e-4, 0.0, {}), fused=True)
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(3):
        # As Lightning does: the gradients of the last step are there during the forward pass.
        value = loss(model)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        del value
    measured = resident("VmHWM") - before
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "parameters": parameters,
        "learning": sum(p.numel() for p in learning),
        "tokens": ids.shape[1],
        "weights_mib": round(weights / 2**20, 1),
        "predicted_mib": round(predicted / 2**20, 1),
        "measured_mib": round(measured / 2**20, 1),
        "ratio": round(predicted / measured, 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", help="NAME/WAY, in this process")
    parser.add_argument("--only", default="", help="NAME of one model")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(*options.case.split("/"))))
        return 0
    from vla.report.provenance import provenance

    cases: dict[str, dict[str, float]] = {}
    # Torch's threads have arenas of their own, which one thread does without.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    environment |= {"OMP_NUM_THREADS": "1"}
    for name in [options.only] if options.only else WIDTHS:
        for way in WAYS:
            command = [sys.executable, __file__, "--case", f"{name}/{way}"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                print(done.stderr[-2000:], file=sys.stderr)
                return 1
            cases[f"{name}/{way}"] = json.loads(done.stdout.splitlines()[-1])
            print(f"{name}/{way}: {cases[f'{name}/{way}']}", file=sys.stderr)
    worst = max(abs(case["ratio"] - 1) for case in cases.values())
    smallest = min(case["parameters"] for case in cases.values())
    bars = {
        "largest relative error of the predicted memory": {"value": round(worst, 3), "bar": BAR, "holds": worst <= BAR},
        "parameters of the smallest model": {"value": smallest, "bar": 100_000_000, "holds": smallest >= 100_000_000},
    }
    print(json.dumps({"bars": bars, "cases": cases, "provenance": provenance()}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
