"""How long the main job will take on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from typing import Any

AROUND = 30.0
"""Seconds for starting and for the report, whatever is left to do."""


def expected_seconds(config: dict[str, Any], episodes: int, trained: int = 0) -> dict[str, float]:
    """Seconds that each stage will take.

    Training is measured by the rate of this machine's matrix products against that of the one on which the shares were taken,
    simulation by its number of cores.

    Args:
        config: the whole configuration.
        episodes: of the evaluation, with the right instruction.
        trained: optimizer steps that were done before.
    """
    trainer, collected = config["trainer"], config["collect"]
    steps = max(trainer["max_steps"] - trained, 0)
    samples = steps * trainer["accumulate_grad_batches"] * config["data"]["batch_size"]
    recording = collected["robot"]["episodes"] * 0.75 + collected["questions"]["pictures"] * 0.01
    simulating = 2 / (os.cpu_count() or 1)
    return {
        "collect": recording * simulating,
        "train": samples * 0.024 * max(177.0 / _gflops(), 0.1),
        "export": 5.0,
        "questions": 25.0,
        "rollout": episodes * 1.75 * 1.6 * simulating,
        "serve": 30.0,
        "expert": 120.0 * simulating,
    }


def _gflops() -> float:
    import torch

    a = torch.randn(768, 768)
    torch.mm(a, a)
    began = time.perf_counter()
    for _ in range(20):
        torch.mm(a, a)
    return 20 * 2 * 768**3 / (time.perf_counter() - began) / 1e9


def said(seconds: dict[str, float], left: Collection[str], done: Collection[str]) -> str:
    """How long it will take, in words.

    Args:
        seconds: of each stage.
        left: names of the stages that are still to be done.
        done: names of those that were done before.
    """
    if not left:
        return "Everything was done before, only the report is written anew: less than a minute."
    minutes = max(round((sum(seconds[name] for name in left) + AROUND) / 60), 1)
    about = f"{minutes} minute{'s' * (minutes > 1)}"
    if not done:
        return f"About {about} and 0.2 GiB of disk on this machine."
    return f"About {about} more on this machine; done before: {', '.join(done)}."
