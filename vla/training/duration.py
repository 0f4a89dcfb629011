"""How long a run takes, estimated from its first steps, and the intervals that depend on its length."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from tqdm import tqdm

from vla.errors import UserError
from vla.training.batch import TrainingBatch
from vla.training.module import ours
from vla.training.size import described

STEPS, SECONDS = 10, 20.0
"""How many steps are measured; fewer, but at least two, if they take longer than this or a validation comes before."""


class Duration(L.Callback):
    """Says before a run what it consists of and what memory it needs, and after its first steps how long the rest will take.

    The first step is left out of the measurement, because it also loads and allocates. Waiting for data is included; validations
    and rollouts are not.
    """

    def __init__(self) -> None:
        self._first = self._began = 0.0
        self._done = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # Before the weights are moved to the device, which may have no room for them.
        if stage == "fit" and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            for line in described(ours(pl_module), trainer, _device(trainer)):
                print(line, file=sys.stderr, flush=True)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        steps, self._first, self._began = int(trainer.estimated_stepping_batches), trainer.global_step + 1, 0.0
        # What is over before it is measured needs no estimate.
        self._done = not trainer.is_global_zero or steps - trainer.global_step <= 2 * STEPS
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            learning = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
            samples = trainer.datamodule.batch_size * trainer.accumulate_grad_batches  # type: ignore[attr-defined]
            left = f"{steps - trainer.global_step:,} steps of {samples} samples"
            later = "" if self._done else "; the expected time follows after the first steps"
            print(
                f"training {learning / 1e6:,.1f} M parameters for {left}, in {trainer.precision} on {_device(trainer)}{later}",
                file=sys.stderr,
                flush=True,
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: TrainingBatch, batch_idx: int
    ) -> None:
        if self._done or trainer.global_step < self._first:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        if not self._began:
            self._began, self._first = time.perf_counter(), trainer.global_step
            return
        if trainer.global_step - self._first >= STEPS or time.perf_counter() - self._began > SECONDS:
            self._say(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Steps before and after a validation are not measured together, so what has been measured has to do.
        if self._began and not self._done:
            self._say(trainer)
        self._began = 0.0

    def _say(self, trainer: L.Trainer) -> None:
        """Says how long the rest takes, if at least two steps have been measured."""
        steps, seconds = trainer.global_step - self._first, time.perf_counter() - self._began
        if steps < min(STEPS, 2):
            return
        left = int(trainer.estimated_stepping_batches) - trainer.global_step
        expected = duration(left * seconds / steps)
        measured = f"{seconds / steps:.2g} s a step, measured over {steps} steps"
        tqdm.write(f"expected: {expected} on {_device(trainer)}, without validations ({measured})", file=sys.stderr)
        self._done = True


def duration(seconds: float) -> str:
    """Seconds in the words of an estimate: "about 42 minutes"."""
    for unit, length in (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0)):
        if seconds >= 1.5 * length:
            number = seconds / length
            return f"about {number:.1f} {unit}s" if number < 10 and unit != "minute" else f"about {number:.0f} {unit}s"
    return f"about {seconds:.0f} seconds"


def _device(trainer: L.Trainer) -> str:
    device, ranks = trainer.strategy.root_device, trainer.world_size
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type.upper()}"
    name += f" ({len(os.sched_getaffinity(0))} cores)" if device.type == "cpu" and hasattr(os, "sched_getaffinity") else ""
    return f"{ranks} x {name}" if ranks > 1 else f"this {name}"


def validation_interval(interval: Any, max_steps: int, accumulate: int) -> Any:
    """Batches between validations: of a share below 1 that share of all batches, anything else as it is.

    Args:
        interval: `trainer.val_check_interval`, where `trainer.check_val_every_n_epoch` is null.
        max_steps: optimizer steps; below 0 the run has no end.
        accumulate: batches per optimizer step.

    Raises:
        UserError: the share is of a run that has no end.
    """
    if not isinstance(interval, float) or not 0 < interval < 1:
        return interval
    if max_steps < 0:
        raise UserError(f"val_check_interval {interval} is a share of max_steps", "trainer", "set max_steps, or give batches")
    return max(round(interval * max_steps), 1) * accumulate
