"""Implicit Q-learning: learns values from demonstrations, and a head that prefers the actions with higher values.

Kostrikov, Nair, Levine 2022, "Offline Reinforcement Learning with Implicit Q-Learning" (arXiv 2110.06169).
"""

from __future__ import annotations

import copy
import dataclasses
from typing import ClassVar

import torch
from torch import nn

from vla.rl.learners.behaviour_cloning import CloningOptions, MakeHead, adamw, difference
from vla.rl.learners.demonstrations import TransitionBatch


@dataclasses.dataclass(frozen=True)
class IQLOptions(CloningOptions):
    """Arguments of IQL. The paper uses an expectile of 0.7 to 0.9, a temperature of 3 to 10 and `follow` = 0.005.

    Attributes:
        expectile: expectile of the action values that a state's value estimates; 0.5 is their mean, 1 their maximum.
        temperature: how strongly an action's advantage increases its weight; 0 is behaviour cloning.
        discount: discount factor per chunk.
        follow: rate of the target network's moving average.
    """

    expectile: float = 0.8
    temperature: float = 3.0
    discount: float = 0.97
    follow: float = 0.005

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.expectile < 1 and self.temperature >= 0 and 0 <= self.discount <= 1 and 0 < self.follow <= 1):
            raise ValueError(f"{self}: expectile, discount and follow must be from 0 to 1, temperature 0 or more")


class IQL:
    """IQL on chunks: a chunk counts as one action, with reward 1 if the task is completed within it.

    Unlike in the paper, the head is not a distribution: the weights apply to its mean absolute error.
    """

    Options = IQLOptions
    ahead: ClassVar[bool] = True
    resumes: ClassVar[bool] = True

    def __init__(self, make: MakeHead, size: int, options: IQLOptions):
        self.options = options
        # One head with two outputs holds both critics; it takes the chunk beside the other numbers.
        critic = make(2, size)
        target = copy.deepcopy(critic).requires_grad_(False)
        self.networks = nn.ModuleDict({"actor": make(size, 0), "value": make(1, 0), "critic": critic, "target": target})
        self.optimizer = adamw([p for p in self.networks.parameters() if p.requires_grad], options)

    def update(self, batch: TransitionBatch) -> dict[str, float]:
        """Updates actor, value and critic by one step; returns what to log."""
        nets, o = self.networks, self.options
        with_actions = {**batch.observation, "numbers": torch.cat([batch.observation["numbers"], batch.actions], 1)}
        with torch.no_grad():
            q = nets["target"](with_actions).amin(1)
            next_value = nets["value"](batch.next)[:, 0] * (1 - batch.done)
        value = nets["value"](batch.observation)[:, 0]
        advantage = q - value
        value_loss = (torch.where(advantage > 0, o.expectile, 1 - o.expectile) * advantage.square()).mean()
        q_target = batch.done + o.discount * next_value
        q_error = (nets["critic"](with_actions) - q_target[:, None]).square().mean(1)
        critic_loss = (q_error * batch.known).sum() / batch.known.sum().clamp_min(1)
        weight = (o.temperature * advantage.detach()).exp().clamp_max(100)
        loss = (weight * difference(nets["actor"], batch)).mean()
        self.optimizer.zero_grad()
        (loss + value_loss + critic_loss).backward()
        self.optimizer.step()
        with torch.no_grad():
            for old, new in zip(nets["target"].parameters(), nets["critic"].parameters(), strict=True):
                old.lerp_(new, o.follow)
        losses = {"loss": loss, "value_loss": value_loss, "critic_loss": critic_loss, "value": value.mean()}
        return {name: one.item() for name, one in losses.items()}
