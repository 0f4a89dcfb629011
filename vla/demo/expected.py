"""Estimates how long the demo will take on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from typing import Any

AROUND = 30.0
"""Seconds for starting up and for the report, whichever stages are left."""


def expected_seconds(configs: Sequence[dict[str, Any]], episodes: int, trained: Sequence[int] = (0, 0)) -> dict[str, float]:
    """Returns the expected seconds of each stage.

    Training time scales with the speed of matrix products relative to the reference machine, simulation time with the number of
    cores.

    Args:
        configs: the whole configurations of both trainings.
        episodes: number of evaluation episodes with the correct instruction.
        trained: number of optimizer steps already done in each.
    """
    collected, simulating = configs[1]["collect"], 2 / (os.cpu_count() or 1)
    recording = collected["robot"]["episodes"] * 0.75 + collected["questions"]["images"] * 0.01
    gflops = _gflops()
    first, second = (_training(*pair, gflops) for pair in zip(configs, trained, strict=True))
    return {
        "collect": recording * simulating,
        "train": first,
        "correct": collected["dagger"]["episodes"] * 1.75 * simulating + second + 20.0,
        "questions": 25.0,
        "rollout": episodes * 1.75 * 1.6 * simulating,
        "serve": 30.0,
        "expert": 120.0 * simulating,
    }


def _training(config: dict[str, Any], trained: int, gflops: float) -> float:
    trainer = config["trainer"]
    steps = max(trainer["max_steps"] - trained, 0)
    samples = steps * trainer["accumulate_grad_batches"] * config["data"]["batch_size"]
    return samples * 0.024 * max(177.0 / gflops, 0.1)


def _gflops() -> float:
    import torch

    a = torch.randn(768, 768)
    torch.mm(a, a)
    began = time.perf_counter()
    for _ in range(20):
        torch.mm(a, a)
    return 20 * 2 * 768**3 / (time.perf_counter() - began) / 1e9


def expected_text(seconds: dict[str, float], left: Collection[str], done: Collection[str]) -> str:
    """Returns a sentence about how long the demo will take.

    Args:
        seconds: expected seconds of each stage.
        left: names of the stages that are left.
        done: names of the finished stages.
    """
    if not left:
        return "All stages are already done; rewriting the report takes less than a minute."
    minutes = max(round((sum(seconds[name] for name in left) + AROUND) / 60), 1)
    duration = f"{minutes} minute{'s' * (minutes > 1)}"
    if not done:
        return f"About {duration} and 0.2 GiB of disk on this machine."
    return f"About {duration} more on this machine; already done: {', '.join(done)}."
