"""Callbacks: rollouts during training, averaged weights, progress, throughput, gradients, predictions."""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, ParamSpec

import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter, EMAWeightAveraging, ProgressBar
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from tqdm import tqdm

from vla.errors import UserError
from vla.training.batch import TrainingBatch
from vla.training.module import ours
from vla.training.rollouts import Evaluate, averaged, roll_out

P = ParamSpec("P")


class RolloutCallback(L.Callback):
    """Rolls out fixed episodes every N optimizer steps and logs `rollout/success` and the like, so that checkpoints can be chosen
    by success. The task is the one that the data's card names. The command line sets `evaluate`.

    Args:
        every: optimizer steps between rollouts.
        episodes: number of episodes; the same ones each time, and none that an evaluation has.
        batch: rows per policy call.
    """

    evaluate: Evaluate | None = None

    def __init__(self, every: int = 500, episodes: int = 10, batch: int = 2):
        if min(every, episodes, batch) < 1:
            raise UserError(f"every {every}, episodes {episodes}, batch {batch}", "RolloutCallback", "give at least 1 each")
        self.every, self.episodes, self.batch = every, episodes, batch
        self._last = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # A resumed run starts at a step that was rolled out before it was saved.
        self._last = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: TrainingBatch, batch_idx: int
    ) -> None:
        step, module = trainer.global_step, ours(pl_module)
        if step == self._last or step % self.every:
            return
        self._last = step
        # One rank rolls out for all. With sharded weights every rank must take part.
        rates: dict[str, float] = {}
        if trainer.is_global_zero or module.device_mesh is not None:
            with averaged(trainer, module), module.clock.paused():
                rates = roll_out(self.evaluate, module, self.episodes, self.batch)
        rates = trainer.strategy.broadcast(rates)
        named = {f"rollout/{name}": float(value) for name, value in rates.items()}
        # Logged once, at this step: `log` would repeat the value at every logged step until the epoch's end.
        if trainer.logger is not None:
            trainer.logger.log_metrics(named, step)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in named.items()})


class EMA(EMAWeightAveraging):
    """Keeps an exponential moving average of the weights, which is validated, rolled out and exported. Training continues with
    the run's own weights.

    Args:
        decay: share of the average that stays at each optimizer step.
    """

    def __init__(self, decay: float = 0.999):
        # Buffers are tables, some of them of integers, which have no average.
        super().__init__(decay=decay, use_buffers=False)
        self._own: list[torch.Tensor] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        _refuse_sharded(pl_module, "EMA")
        super().setup(trainer, pl_module, stage)

    def _swap_models(self, pl_module: L.LightningModule) -> None:
        """Gives the module the average; at the next call gives it its own weights back.

        Lightning copies both ways. Under bf16-true this would round the average, which is kept in fp32, at every validation.
        """
        if self._own:
            for parameter, own in zip(pl_module.parameters(), self._own, strict=True):
                parameter.data.copy_(own)
            self._own = []
        else:
            self._own = [parameter.data.clone() for parameter in pl_module.parameters()]
            self._copy_average_to_current(pl_module)


class StepProgress(ProgressBar):
    """Shows a bar over optimizer steps (however many batches are accumulated for one) with the loss, and the decoded error of
    the last validation in half ranges."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm | None = None
        self._loss = self._decoded = ""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        steps, shown = int(trainer.estimated_stepping_batches), trainer.is_global_zero
        self._bar = tqdm(total=steps, initial=trainer.global_step, desc="train", unit="step", disable=not shown)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: TrainingBatch, batch_idx: int
    ) -> None:
        if self._bar is not None and trainer.global_step > self._bar.n:
            loss = trainer.progress_bar_metrics.get("loss")
            self._loss = f"loss {loss:.3f}" if loss is not None else ""
            self._bar.set_postfix_str(self._loss + self._decoded, refresh=False)
            self._bar.update(trainer.global_step - self._bar.n)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        error = trainer.callback_metrics.get("val/decoded_error")
        if self._bar is not None and error is not None:
            self._decoded = f", decoded error {error:.3f}"
            self._bar.set_postfix_str(self._loss + self._decoded)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._bar is not None:
            self._bar.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        # What is said of it begins its own line.
        self.on_train_end(trainer, pl_module)


class Throughput(L.Callback):
    """Logs samples/s, tokens/s and, on a GPU whose peak is known, the share of the peak that the model's products reach (MFU).
    Prints the medians at the end.

    Products are counted once, in the second batch, without those that gradient checkpointing computes again. Tokens include
    padding, as the model computes them.

    Args:
        every: optimizer steps between two values. The first interval is left out: it includes the start.
    """

    def __init__(self, every: int = 50):
        if every < 1:
            raise UserError(f"every {every}", "Throughput", "give at least 1")
        self.every = every
        self._began = self._step = self._samples = self._tokens = 0.0
        self._rates: list[dict[str, float]] = []
        self._counter: FlopCounterMode | None = None
        self._operations = 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: TrainingBatch, batch_idx: int
    ) -> None:
        if self._samples and not self._operations and _peak(pl_module.device, trainer.precision):
            self._counter = model_products()
            self._counter.__enter__()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: TrainingBatch, batch_idx: int
    ) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self._operations = self._counter.get_total_flops() / batch.sequences.inputs.ids.numel()
            self._counter = None
        self._samples += len(batch) * trainer.world_size
        self._tokens += batch.sequences.inputs.ids.numel() * trainer.world_size
        if trainer.global_step - self._step < self.every:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        now = time.perf_counter()
        if self._began:
            values = {"samples_per_second": self._samples, "tokens_per_second": self._tokens}
            peak = _peak(pl_module.device, trainer.precision)
            if peak:
                values["mfu"] = self._operations * self._tokens / (peak * trainer.world_size)
            self._rates.append({name: value / (now - self._began) for name, value in values.items()})
            if trainer.logger is not None:
                rates = {f"throughput/{name}": value for name, value in self._rates[-1].items()}
                trainer.logger.log_metrics(rates, trainer.global_step)
        self._began, self._step, self._samples, self._tokens = now, trainer.global_step, 0.0, 0.0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # An interval with a validation in it says nothing about training.
        self._began = 0.0

    def medians(self) -> dict[str, float]:
        """samples_per_second, tokens_per_second and, where it is known, mfu; empty before the second interval."""
        return {name: statistics.median(rates[name] for rates in self._rates) for name in (self._rates or [{}])[0]}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        medians = self.medians()
        if medians and trainer.is_global_zero:
            parts = [f"{medians['samples_per_second']:.1f} samples/s", f"{medians['tokens_per_second']:.0f} tokens/s"]
            parts += [f"MFU {medians['mfu']:.1%}"] if "mfu" in medians else []
            if "train/data_wait" in trainer.callback_metrics:
                parts.append(f"{float(trainer.callback_metrics['train/data_wait']):.1%} of the time waiting for data")
            print(f"throughput: {', '.join(parts)}", file=sys.stderr)


def model_products() -> FlopCounterMode:
    """Counts the operations of the model's matrix products. Products that a backward pass computes again, to save memory, do not
    count as work of the model (Chowdhery et al. 2022, PaLM, appendix B)."""

    def first_time(formula: Callable[P, int]) -> Callable[P, int]:
        def count(*args: P.args, **kwargs: P.kwargs) -> int:
            # A backward pass itself records no gradients; a forward pass within one does.
            again = torch.is_grad_enabled() and torch._C._current_graph_task_id() != -1
            return 0 if again else formula(*args, **kwargs)

        count._get_raw = True  # type: ignore[attr-defined]  (tells the counter: it takes tensors, not shapes)
        return count

    return FlopCounterMode(display=False, custom_mapping={op: first_time(formula) for op, formula in flop_registry.items()})


def _peak(device: torch.device, precision: str | None) -> float | None:
    """The device's peak in operations per second; None where it is not known."""
    if device.type != "cuda":
        return None
    from lightning.fabric.utilities.throughput import get_available_flops

    return get_available_flops(device, torch.bfloat16 if "bf16" in str(precision) else torch.float32)


class GradientAgreement(L.Callback):
    """Logs the cosine between the gradients of every two sources' losses on one batch. Below 0 the sources work against each
    other.

    A measurement costs a forward and a backward pass per source.

    Args:
        every: optimizer steps between two measurements.
    """

    def __init__(self, every: int = 100):
        if every < 1:
            raise UserError(f"every {every}", "GradientAgreement", "give at least 1")
        self.every, self._last = every, -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        _refuse_sharded(pl_module, "GradientAgreement")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: TrainingBatch, batch_idx: int
    ) -> None:
        step, module = trainer.global_step, ours(pl_module)
        if step == self._last or step % self.every:
            return
        self._last = step
        with module.clock.paused():
            gradients = {name: g for name, g in module.gradients_by_source(batch).items() if g is not None}
        for one, other in itertools.combinations(gradients, 2):
            cosine = torch.nn.functional.cosine_similarity(gradients[one], gradients[other], dim=0)
            module.log(f"agreement/{one}_{other}", cosine, batch_size=len(batch))


def _refuse_sharded(module: L.LightningModule, what: str) -> None:
    if module.device_mesh is not None:
        raise UserError("it needs whole weights, and FSDP2 shards them", what, "leave it out, or train with ddp")


class WritePredictions(BasePredictionWriter):
    """Writes one JSON line per step for `vla predict`: decoded and true actions in physical units.

    Args:
        path: the file; "" is predictions.jsonl in the run's folder.
    """

    def __init__(self, path: str = "", write_interval: Literal["batch"] = "batch"):
        super().__init__(write_interval)
        self.path, self._lines = path, 0

    def _file(self, trainer: L.Trainer) -> Path:
        return Path(self.path or Path(trainer.default_root_dir) / "predictions.jsonl")

    def write_on_batch_end(self, trainer, pl_module, prediction, batch_indices, batch, batch_idx, dataloader_idx) -> None:
        path = self._file(trainer)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lines += len(prediction)
        with path.open("w" if batch_idx == 0 else "a") as file:
            file.writelines(json.dumps(row) + "\n" for row in prediction)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and self._lines:
            print(f"{self._lines} lines of decoded and true actions: {self._file(trainer)}")
