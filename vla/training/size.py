"""The memory that a training needs per process, said before it starts, and what to change where it does not fit."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import lightning as L
import psutil
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn

from vla.datasets.mixture import Mixture, weigh
from vla.errors import UserError
from vla.models.blocks import blocks, compute_again
from vla.models.four_bit import quantised
from vla.training.batch import TrainingBatch
from vla.training.footprint import Footprint, step_peak
from vla.training.module import VLAModule
from vla.training.rows import Draws, collate

LARGE = 50_000_000
"""Models with fewer parameters are small beside any machine's memory; nothing is predicted for them."""
ROOM = 0.9
"""The share of a device's memory that a prediction may have: CUDA itself and gaps between blocks need the rest."""
SETS = {"32-true": None, "32": None, "bf16-true": torch.bfloat16, "16-true": torch.float16}
GIB = 2**30


def first_batch(trainer: L.Trainer) -> TrainingBatch:
    """This process's rows of the first batch, without drawing them from the run's mixture."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    sources = data.split("train")
    weights = weigh(sources, data.robot_share, data.temperature)
    drawn = Draws(Mixture(sources, data.seed, data.epoch_steps * data.batch_size, weights), data.encoder)
    rows = [drawn[t] for t in range(trainer.global_rank, data.batch_size, trainer.world_size)]
    batch = collate(data.encoder, rows)
    if not isinstance(batch, TrainingBatch):
        raise batch.error()
    return batch


def predicted(module: VLAModule, batch: TrainingBatch, trainer: L.Trainer) -> Footprint:
    """What a step on such a batch needs per process, with the trainer's strategy and precision.

    Raises:
        RuntimeError: how much is computed depends on the content of weights, so it cannot be found without computing.
    """
    model, precision = module.model, str(trainer.precision)
    sharded = trainer.world_size if isinstance(trainer.strategy, ModelParallelStrategy) else 1
    dtype, mixed = SETS.get(precision), precision.endswith("-mixed")
    if dtype is not None:
        batch = trainer.precision_plugin.convert_input(batch)

    def loss(shadow: nn.Module) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16) if mixed else contextlib.nullcontext():
            return module.loss_of(shadow, batch)  # type: ignore[arg-type]

    peak = step_peak(model, loss, dtype, trainer.accumulate_grad_batches > 1, sharded)
    learning = [p for p in model.parameters() if p.requires_grad]
    gradients = sum(_bytes(p, dtype) for p in learning)
    weights = _weights(model, dtype)
    moments = sum(_moments(p, dtype, module.optimizer) for p in learning)
    activations = max(peak - gradients // sharded, 0) + _gathered(model, dtype, sharded) + _unpacked(model)
    if any(isinstance(c, WeightAveraging) for c in trainer.callbacks):  # type: ignore[attr-defined]
        weights *= 2
    # DDP reduces gradients in buckets, which are a copy.
    copies = 2 if isinstance(trainer.strategy, DDPStrategy) and trainer.world_size > 1 else 1
    return Footprint(weights // sharded, copies * gradients // sharded, moments // sharded, activations)


def _bytes(value: torch.Tensor, dtype: torch.dtype | None) -> int:
    return value.numel() * (dtype.itemsize if dtype is not None and value.is_floating_point() else value.itemsize)


def _weights(model: nn.Module, dtype: torch.dtype | None) -> int:
    own = sum(_bytes(value, dtype) for value in [*model.parameters(), *model.buffers()])
    # A float per 64 weights, itself in 8 bits where scales are quantised too; the latter is what we ask for.
    return own + sum(module.in_features * module.out_features // 64 for module in model.modules() if quantised(module))  # type: ignore[operator]


def _moments(value: torch.Tensor, dtype: torch.dtype | None, optimizer: str) -> int:
    # bitsandbytes keeps small tensors whole.
    return 2 * value.numel() if optimizer == "adamw8bit" and value.numel() >= 4096 else 2 * _bytes(value, dtype)


def _gathered(model: nn.Module, dtype: torch.dtype | None, ranks: int) -> int:
    """FSDP2 gathers what is in no block for the whole step, and one block ahead of the one that is computed, with the gradients
    of both."""
    if ranks == 1:
        return 0
    sizes = [sum(_bytes(p, dtype) for p in block.parameters()) for block in blocks(model)]
    rest = sum(_bytes(p, dtype) for p in model.parameters()) - sum(sizes)
    learning = sum(_bytes(p, dtype) for p in model.parameters() if p.requires_grad) > 0.5 * (rest + sum(sizes))
    return (rest + 2 * max(sizes, default=0)) * (2 if learning else 1)


def _unpacked(model: nn.Module) -> int:
    """The largest layer of 4-bit weights, which is unpacked to bf16 while it is computed."""
    return max((2 * m.in_features * m.out_features for m in model.modules() if quantised(m)), default=0)  # type: ignore[operator]


def remedies(module: VLAModule, batch: TrainingBatch, trainer: L.Trainer, now: Footprint) -> dict[str, int]:
    """Settings that need less memory -> bytes that a process would then need; those with the least effect on training first."""
    settings: dict[str, int] = {}
    learns = now.gradients + now.optimizer
    if not module.gradient_checkpointing and module.model.supports_gradient_checkpointing:
        compute_again(module.model)
        settings["model.gradient_checkpointing=true"] = predicted(module, batch, trainer).total
        compute_again(module.model, False)
    if len(batch) > 1:
        size, steps = trainer.datamodule.batch_size, trainer.accumulate_grad_batches  # type: ignore[attr-defined]
        setting = f"data.batch_size={size // 2} with trainer.accumulate_grad_batches={2 * steps}"
        settings[setting] = now.total - now.activations // 2
    if trainer.precision in ("32-true", "bf16-mixed") and module.lora.rank:
        settings["trainer.precision=bf16-true"] = now.total - (now.weights + learns) // 2
    if module.optimizer == "adamw" and now.optimizer > now.total // 10:
        settings["model.optimizer=adamw8bit"] = now.total - now.optimizer * 3 // 4
    if trainer.world_size > 1 and not isinstance(trainer.strategy, ModelParallelStrategy):
        settings["FSDP2 (configs/fsdp-7b.yaml)"] = (now.weights + learns) // trainer.world_size + now.activations
    if not module.lora.rank:
        settings["model.lora.rank=16"] = now.total - learns
    return {setting: size for setting, size in settings.items() if size < now.total}


def described(module: VLAModule, trainer: L.Trainer, device: str) -> list[str]:
    """The lines of the size table; none for a small model.

    Args:
        device: what the processes run on, in words.
    """
    if sum(p.numel() for p in module.model.parameters()) < LARGE:
        return []
    try:
        batch = first_batch(trainer)
        now = predicted(module, batch, trainer)
    except UserError:
        return []  # the run itself says what is wrong with the data
    except RuntimeError as error:
        return [f"memory: not predicted; what this model computes depends on its weights ({str(error).partition(chr(10))[0]})"]
    parts = ", ".join(f"{name} {_gib(size)}" for name, size in dataclasses.asdict(now).items())
    each = " per process" if trainer.world_size > 1 else ""
    rows, tokens = batch.sequences.inputs.ids.shape
    lines = [f"memory{each}, predicted: {_gib(now.total)} GiB = {parts}; with {rows} rows of {tokens} tokens"]
    there = capacity(trainer.strategy.root_device)
    if now.total > ROOM * there:
        lines.append(f"  that does not fit {device}, which has {_gib(there)} GiB. Less is needed with")
        lines += [f"    {name}: {_gib(size)} GiB" for name, size in remedies(module, batch, trainer, now).items()]
    return lines


def capacity(device: torch.device) -> int:
    """Bytes of a device's memory; of a CPU, the machine's that are free."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().available


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}" if size >= 0.05 * GIB or not size else f"{size / GIB:.2f}"
