"""Behaviour cloning: a head's chunk is pulled towards the demonstrated one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from vla.promptable.head import Head
from vla.rl.learners.demonstrations import Batch

MakeHead = Callable[[int, int], Head]
"""A head of so many numbers out, with so many more numbers in."""


@dataclasses.dataclass(frozen=True)
class Cloning:
    """Settings.

    Attributes:
        batch: rows per step.
        learning_rate, weight_decay: of AdamW.
    """

    batch: int = 64
    learning_rate: float = 5e-4
    weight_decay: float = 1e-3

    def __post_init__(self) -> None:
        if not isinstance(self.batch, int) or self.batch < 1 or not self.learning_rate > 0 or self.weight_decay < 0:
            raise ValueError(f"{self}: positive numbers are wanted")


class CloningLearner:
    """Learns a chunk [K * F] by the mean absolute difference, as OpenVLA-OFT does (Kim et al. 2025, arXiv 2502.19645).

    Attributes:
        networks: all that learns; "actor" is what acts.
        optimizer: of all of it.
        ahead: whether batches must hold what is seen after a chunk.
    """

    ahead = False

    def __init__(self, make: MakeHead, size: int, settings: Cloning):
        self.networks = nn.ModuleDict({"actor": make(size, 0)})
        self.optimizer = adamw(self.networks.parameters(), settings)

    def update(self, batch: Batch) -> dict[str, float]:
        """One step; what is worth logging."""
        loss = difference(self.networks["actor"], batch).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item()}


def adamw(parameters, settings: Cloning) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def difference(actor: nn.Module, batch: Batch) -> torch.Tensor:
    """Mean absolute difference [B] of what the head writes and what was done, as shares of the limits."""
    apart = (torch.tanh(actor(batch.seen)) - batch.actions).abs() * batch.mask
    return apart.sum(1) / batch.mask.sum(1)
