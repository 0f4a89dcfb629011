"""Implicit Q-learning: values from demonstrations, and a head that prefers the actions that were worth more.

Kostrikov, Nair, Levine 2022, "Offline Reinforcement Learning with Implicit Q-Learning" (arXiv 2110.06169).
"""

from __future__ import annotations

import copy
import dataclasses
from typing import ClassVar

import torch
from torch import nn

from vla.rl.learners.behaviour_cloning import CloningOptions, MakeHead, adamw, difference
from vla.rl.learners.demonstrations import Batch


@dataclasses.dataclass(frozen=True)
class IQLOptions(CloningOptions):
    """Arguments of IQL; the paper's are 0.7 to 0.9 for the expectile, 3 to 10 for the temperature and 0.005 for what follows.

    Attributes:
        expectile: 0.5 is the mean of what follows a state, 1 the best of it.
        temperature: how much more an action counts the more it is worth; 0 is behaviour cloning.
        discount: per chunk.
        follow: share of the way that the target values go towards the learned ones at each step.
    """

    expectile: float = 0.8
    temperature: float = 3.0
    discount: float = 0.97
    follow: float = 0.005

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.expectile < 1 and self.temperature >= 0 and 0 <= self.discount <= 1 and 0 < self.follow <= 1):
            raise ValueError(f"{self}: expectile, discount and follow are shares, temperature is 0 or more")


class IQL:
    """A chunk counts as one action; its reward is 1 where the task is done within it.

    Unlike the paper's, the head is no distribution: the weight stands before its mean absolute difference.
    """

    Options = IQLOptions
    ahead: ClassVar[bool] = True
    resumes: ClassVar[bool] = True

    def __init__(self, make: MakeHead, size: int, options: IQLOptions):
        self.options = options
        # Both critics in one head, which sees the chunk beside the other numbers.
        critic = make(2, size)
        target = copy.deepcopy(critic).requires_grad_(False)
        self.networks = nn.ModuleDict({"actor": make(size, 0), "value": make(1, 0), "critic": critic, "target": target})
        self.optimizer = adamw([p for p in self.networks.parameters() if p.requires_grad], options)

    def update(self, batch: Batch) -> dict[str, float]:
        """One step of all three; what is worth logging."""
        nets, s = self.networks, self.options
        taken = {**batch.observation, "numbers": torch.cat([batch.observation["numbers"], batch.actions], 1)}
        with torch.no_grad():
            worth = nets["target"](taken).amin(1)
            after = nets["value"](batch.next)[:, 0] * (1 - batch.done)
        value = nets["value"](batch.observation)[:, 0]
        above = worth - value
        expected = (torch.where(above > 0, s.expectile, 1 - s.expectile) * above.square()).mean()
        wanted = batch.done + s.discount * after
        wrong = ((nets["critic"](taken) - wanted[:, None]).square().mean(1) * batch.known).sum() / batch.known.sum().clamp_min(1)
        weight = (s.temperature * above.detach()).exp().clamp_max(100)
        loss = (weight * difference(nets["actor"], batch)).mean()
        self.optimizer.zero_grad()
        (loss + expected + wrong).backward()
        self.optimizer.step()
        with torch.no_grad():
            for old, new in zip(nets["target"].parameters(), nets["critic"].parameters(), strict=True):
                old.lerp_(new, s.follow)
        return {"loss": loss.item(), "value_loss": expected.item(), "critic_loss": wrong.item(), "value": value.mean().item()}
