"""A learner in one file: behaviour cloning with a Huber loss. Entry point: vla.learners.offline, huber."""

import dataclasses

import torch
from torch import nn
from torch.nn import functional


@dataclasses.dataclass(frozen=True)
class HuberOptions:
    """Arguments of the learner, as `learner.arguments` gives them.

    Attributes:
        batch: rows per step.
        learning_rate: of Adam.
        delta: errors above it, as a share of an action's limits, count linearly.
    """

    batch: int = 64
    learning_rate: float = 5e-4
    delta: float = 0.1

    def __post_init__(self):
        if self.batch < 1 or min(self.learning_rate, self.delta) <= 0:
            raise ValueError(f"{self}: numbers must be positive")


class HuberCloning:
    """A `vla.rl.learners.registry.OfflineLearner`: one network, "actor", that writes a chunk [K * F]."""

    Options = HuberOptions
    ahead = False
    resumes = True

    def __init__(self, make, size, options):
        self.networks = nn.ModuleDict({"actor": make(size, 0)})
        self.optimizer = torch.optim.Adam(self.networks.parameters(), lr=options.learning_rate)
        self.delta = options.delta

    def update(self, batch):
        written = torch.tanh(self.networks["actor"](batch.observation))
        # Steps past the end of an episode do not count.
        errors = functional.huber_loss(written, batch.actions, reduction="none", delta=self.delta) * batch.mask
        loss = errors.sum() / batch.mask.sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item()}
