"""Behaviour cloning: trains a head to predict the demonstrated chunk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
from torch import nn

from vla.promptable.head import Head
from vla.rl.learners.demonstrations import TransitionBatch

MakeHead = Callable[[int, int], Head]
"""Makes a head from its number of outputs and the number of its additional inputs."""


@dataclasses.dataclass(frozen=True)
class CloningOptions:
    """Arguments of behaviour cloning.

    Attributes:
        batch: batch size.
        learning_rate, weight_decay: AdamW's.
    """

    batch: int = 64
    learning_rate: float = 5e-4
    weight_decay: float = 1e-3

    def __post_init__(self) -> None:
        if not isinstance(self.batch, int) or self.batch < 1 or not self.learning_rate > 0 or self.weight_decay < 0:
            raise ValueError(f"{self}: batch and learning_rate must be positive, weight_decay 0 or more")


class BehaviourCloning:
    """Learns chunks [K * F] with the mean absolute error as loss, as OpenVLA-OFT does (Kim et al. 2025, arXiv 2502.19645)."""

    Options = CloningOptions
    ahead: ClassVar[bool] = False
    resumes: ClassVar[bool] = True

    def __init__(self, make: MakeHead, size: int, options: CloningOptions):
        self.networks = nn.ModuleDict({"actor": make(size, 0)})
        self.optimizer = adamw(self.networks.parameters(), options)

    def update(self, batch: TransitionBatch) -> dict[str, float]:
        """Takes one step and returns what to log."""
        loss = difference(self.networks["actor"], batch).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item()}


def adamw(parameters: Iterable[nn.Parameter], options: CloningOptions) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=options.weight_decay)


def difference(actor: nn.Module, batch: TransitionBatch) -> torch.Tensor:
    """Returns the mean absolute error [B] of the head's actions, as a share of their limits."""
    error = (torch.tanh(actor(batch.observation)) - batch.actions).abs() * batch.mask
    return error.sum(1) / batch.mask.sum(1)
