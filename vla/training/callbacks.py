"""Callbacks: rolling out while training, writing predictions, saying where the run is."""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter, EMAWeightAveraging, ProgressBar, WeightAveraging
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from tqdm import tqdm

from vla.errors import UserError
from vla.policies.local import LocalPolicy

Evaluate = Callable[[LocalPolicy, int], dict[str, float]]
"""(policy, episodes) -> rates by name; the command line puts the simulator behind it."""


class RolloutCallback(L.Callback):
    """Rolls out k fixed episodes every N optimizer steps and logs `rollout/success` and the like, so that checkpoints can be
    chosen by success. The task is the one that the data's card names. Needs `evaluate`, which the command line sets.

    Args:
        every: optimizer steps between rollouts.
        episodes: fixed episodes, the same each time; apart from those of any evaluation.
        batch: rows per policy call.
    """

    evaluate: Evaluate | None = None

    def __init__(self, every: int = 500, episodes: int = 10, batch: int = 2):
        if every < 1 or episodes < 1:
            raise UserError(f"every {every}, episodes {episodes}", "RolloutCallback", "give at least 1 each")
        self.every, self.episodes, self.batch = every, episodes, batch
        self._last = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # The step that a run goes on from was rolled out before it was saved.
        self._last = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        step = trainer.global_step
        if step == self._last or step % self.every:
            return
        self._last = step
        # One rank rolls out for all; of sharded weights every rank has a part, so all do, alike.
        rates: dict[str, float] = {}
        if trainer.is_global_zero or pl_module.device_mesh is not None:
            with averaged(trainer, pl_module), pl_module.clock.paused():
                rates = roll_out(self.evaluate, pl_module, self.episodes, self.batch)
        rates = trainer.strategy.broadcast(rates)
        named = {f"rollout/{name}": float(value) for name, value in rates.items()}
        # Once, at this step: `log` would repeat the value at every logged step until the epoch's end.
        if trainer.logger is not None:
            trainer.logger.log_metrics(named, step)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in named.items()})


def roll_out(evaluate: Evaluate | None, module: Any, episodes: int, batch: int) -> dict[str, float]:
    """Rates of the module's model as a policy, in evaluation mode."""
    if evaluate is None:
        raise UserError("nothing to roll out with", "rollout", "run it through `vla fit` or `vla test`")
    training = module.model.training
    rates = evaluate(LocalPolicy(module.model, module.processor, module.contract, batch, encoder=module.encoder), episodes)
    module.model.train(training)
    return rates


class EMA(EMAWeightAveraging):
    """An exponential moving average of the weights is validated, rolled out and exported; the run goes on with its own.

    Args:
        decay: how much of the average stays at each optimizer step.
    """

    def __init__(self, decay: float = 0.999):
        # Buffers are tables, some of them of integers: there is nothing to average.
        super().__init__(decay=decay, use_buffers=False)
        self._own: list[torch.Tensor] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        _refuse_sharded(pl_module, "EMA")
        super().setup(trainer, pl_module, stage)

    def _swap_models(self, pl_module: L.LightningModule) -> None:
        """Gives the module the average, and at the next call its own weights back.

        Lightning copies both ways; under bf16-true that would round the average, which is kept in fp32, at every validation.
        """
        if self._own:
            for parameter, own in zip(pl_module.parameters(), self._own, strict=True):
                parameter.data.copy_(own)
            self._own = []
        else:
            self._own = [parameter.data.clone() for parameter in pl_module.parameters()]
            self._copy_average_to_current(pl_module)


@contextlib.contextmanager
def averaged(trainer: L.Trainer, module: Any) -> Iterator[None]:
    """The module has the averaged weights, if the run averages them."""
    averages = [c for c in trainer.callbacks if isinstance(c, WeightAveraging) and c._average_model]  # type: ignore[attr-defined]
    for callback in averages:
        callback._swap_models(module)
    try:
        yield
    finally:
        for callback in averages:
            callback._swap_models(module)


class StepProgress(ProgressBar):
    """A bar over optimizer steps, whatever the batches accumulated for one, with the loss."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        steps, shown = int(trainer.estimated_stepping_batches), trainer.is_global_zero
        self._bar = tqdm(total=steps, initial=trainer.global_step, desc="train", unit="step", disable=not shown)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self._bar is not None and trainer.global_step > self._bar.n:
            loss = trainer.progress_bar_metrics.get("loss")
            self._bar.set_postfix_str(f"loss {loss:.3f}" if loss is not None else "", refresh=False)
            self._bar.update(trainer.global_step - self._bar.n)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._bar is not None:
            self._bar.close()


class Throughput(L.Callback):
    """Logs samples/s, tokens/s and, on a GPU whose peak is known, the share of it that the model's products reach (MFU); says the
    medians at the end.

    Products are counted once, in the second batch, without those that gradient checkpointing computes again; tokens with their
    padding, as the model computes them.

    Args:
        every: optimizer steps between two values; the first such stretch is left out, it holds the start.
    """

    def __init__(self, every: int = 50):
        if every < 1:
            raise UserError(f"every {every}", "Throughput", "give at least 1")
        self.every = every
        self._began = self._step = self._samples = self._tokens = 0.0
        self._rates: list[dict[str, float]] = []
        self._counter: FlopCounterMode | None = None
        self._operations = 0.0

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._samples and not self._operations and _peak(pl_module.device, trainer.precision):
            self._counter = model_products()
            self._counter.__enter__()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
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
        # A stretch with a validation in it says nothing about training.
        self._began = 0.0

    def medians(self) -> dict[str, float]:
        """samples_per_second, tokens_per_second and, where it is known, mfu; empty before the second stretch."""
        return {name: statistics.median(rates[name] for rates in self._rates) for name in (self._rates or [{}])[0]}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        found = self.medians()
        if found and trainer.is_global_zero:
            said = [f"{found['samples_per_second']:.1f} samples/s", f"{found['tokens_per_second']:.0f} tokens/s"]
            said += [f"MFU {found['mfu']:.1%}"] if "mfu" in found else []
            if "train/data_wait" in trainer.callback_metrics:
                said.append(f"{float(trainer.callback_metrics['train/data_wait']):.1%} of the time waiting for data")
            print(f"throughput: {', '.join(said)}", file=sys.stderr)


def model_products() -> FlopCounterMode:
    """Counts the operations of matrix products, of the model's own alone: what is computed again for a backward pass, to save
    memory, is no work of the model (Chowdhery et al. 2022, PaLM, appendix B)."""

    def first_time(formula: Callable[..., int]) -> Callable[..., int]:
        def count(*args: Any, **kwargs: Any) -> int:
            # A backward pass itself records no gradients; a forward pass within one does.
            again = torch.is_grad_enabled() and torch._C._current_graph_task_id() != -1
            return 0 if again else formula(*args, **kwargs)

        count._get_raw = True  # type: ignore[attr-defined]  (the counter's own sign for: takes tensors, not shapes)
        return count

    return FlopCounterMode(display=False, custom_mapping={op: first_time(formula) for op, formula in flop_registry.items()})


def _peak(device: torch.device, precision: Any) -> float | None:
    """Operations a second that the device can do; None where that is not known."""
    if device.type != "cuda":
        return None
    from lightning.fabric.utilities.throughput import get_available_flops

    return get_available_flops(device, torch.bfloat16 if "bf16" in str(precision) else torch.float32)


class GradientAgreement(L.Callback):
    """Logs the cosine between the gradients of every two sources' losses on one batch: below 0 they pull apart.

    Costs a forward and backward pass per source, in the batches in which it measures.

    Args:
        every: optimizer steps between two measurements.
    """

    def __init__(self, every: int = 100):
        if every < 1:
            raise UserError(f"every {every}", "GradientAgreement", "give at least 1")
        self.every, self._last = every, -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        _refuse_sharded(pl_module, "GradientAgreement")

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step == self._last or step % self.every:
            return
        self._last = step
        with pl_module.clock.paused():
            gradients = {name: g for name, g in pl_module.gradients_by_source(batch).items() if g is not None}
        for one, other in itertools.combinations(gradients, 2):
            cosine = torch.nn.functional.cosine_similarity(gradients[one], gradients[other], dim=0)
            pl_module.log(f"agreement/{one}_{other}", cosine, batch_size=len(batch))


def _refuse_sharded(module: L.LightningModule, what: str) -> None:
    if module.device_mesh is not None:
        raise UserError("it needs whole weights, and FSDP2 shards them", what, "leave it out, or train with ddp")


class WritePredictions(BasePredictionWriter):
    """`vla predict` writes one JSON line per step: decoded actions and the truth, physical units.

    Args:
        path: the file; "" is predictions.jsonl in the run's folder.
    """

    def __init__(self, path: str = "", write_interval: Literal["batch"] = "batch"):
        super().__init__(write_interval)
        self.path = path

    def write_on_batch_end(self, trainer, pl_module, prediction, batch_indices, batch, batch_idx, dataloader_idx) -> None:
        path = Path(self.path or Path(trainer.default_root_dir) / "predictions.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w" if batch_idx == 0 else "a") as file:
            file.writelines(json.dumps(row) + "\n" for row in prediction)
