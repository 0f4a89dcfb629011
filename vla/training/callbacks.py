"""Callbacks: rolling out while training, writing predictions, saying where the run is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter, ProgressBar
from tqdm import tqdm

from vla.errors import UserError
from vla.policies.local import LocalPolicy

Evaluate = Callable[[LocalPolicy, int], dict[str, float]]
"""(policy, episodes) -> rates by name; the command line puts the simulator behind it."""


class RolloutCallback(L.Callback):
    """Rolls out k fixed episodes every N optimizer steps and logs `rollout/success` and the like, so that checkpoints can be
    chosen by success. Needs `evaluate`, which the command line sets.

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

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        step = trainer.global_step
        if step == self._last or step % self.every:
            return
        self._last = step
        rates = roll_out(self.evaluate, pl_module, self.episodes, self.batch)
        named = {f"rollout/{name}": float(value) for name, value in rates.items()}
        # Once, at this step: `log` would repeat the value at every logged step until the epoch's end.
        if trainer.logger is not None:
            trainer.logger.log_metrics(named, step)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in named.items()})
        pl_module._left = 0.0  # rolling out is no waiting for data


def roll_out(evaluate: Evaluate | None, module: Any, episodes: int, batch: int) -> dict[str, float]:
    """Rates of the module's model as a policy, in evaluation mode."""
    if evaluate is None:
        raise UserError("nothing to roll out with", "rollout", "run it through `vla fit` or `vla test`")
    training = module.model.training
    rates = evaluate(LocalPolicy(module.model, module.processor, module.contract, batch), episodes)
    module.model.train(training)
    return rates


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
