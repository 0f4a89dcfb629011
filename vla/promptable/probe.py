"""Linear probes of states, which rank prompts, layers and poolings in minutes, before any reinforcement learning."""

from __future__ import annotations

import dataclasses

import torch
from einops import rearrange
from torch.nn import functional

from vla.errors import UserError
from vla.promptable.pooler import mean
from vla.promptable.representation import States

POOLINGS = ("all", "written")
"""The mean over all tokens, or over the written ones."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """The result of a linear probe on held-out observations.

    Attributes:
        score: accuracy of a classification, or R² of a regression (1 is perfect, 0 no better than the mean).
        chance: accuracy of always choosing the most frequent class; 0 for a regression.
        n: number of held-out observations.
    """

    score: float
    chance: float
    n: int


def pooled(states: States, pooling: str, layers: int) -> torch.Tensor:
    """Pools states to vectors [B, layers * D]: the mean over the tokens of each layer, concatenated.

    Raises:
        UserError: the pooling is unknown, or no tokens were written.
    """
    if pooling not in POOLINGS or (pooling == "written" and not states.written.shape[1]):
        raise UserError(
            f"pooling {pooling!r} of {states.written.shape[1]} written tokens", "probe", f"one of {', '.join(POOLINGS)}"
        )
    tokens = rearrange(states.tokens.float(), "b (t layer) d -> b t layer d", layer=layers)
    padding = states.padding[:, ::layers]
    if pooling == "written":
        start = tokens.shape[1] - states.written.shape[1]
        tokens, padding = tokens[:, start:], padding[:, start:]
    return torch.cat([mean(tokens[:, :, layer], padding) for layer in range(layers)], 1)


def classify(
    train: torch.Tensor, labels: torch.Tensor, held_out: torch.Tensor, truth: torch.Tensor, decay: float = 1e-3
) -> Probe:
    """Fits a logistic regression to vectors [N, F] and labels [N] (integers from 0). Returns its held-out accuracy."""
    classes = int(max(labels.max(), truth.max())) + 1
    fitted, probed = _standardised(train, held_out)
    weights = torch.zeros(fitted.shape[1], classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = functional.cross_entropy(fitted @ weights, labels) + decay * weights.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    correct = (probed @ weights.detach()).argmax(1) == truth
    return Probe(float(correct.float().mean()), float(truth.bincount().max() / len(truth)), len(truth))


def regress(train: torch.Tensor, values: torch.Tensor, held_out: torch.Tensor, truth: torch.Tensor, decay: float = 1e-2) -> Probe:
    """Fits a ridge regression from vectors [N, F] to values [N, K]. Returns its held-out R², averaged over the K values."""
    fitted, probed = _standardised(train, held_out)
    penalty = decay * len(fitted) * torch.eye(fitted.shape[1])
    penalty[-1, -1] = 0.0
    weights = torch.linalg.solve(fitted.T @ fitted + penalty, fitted.T @ values)
    residual = (truth - probed @ weights).square().sum(0) / (truth - truth.mean(0)).square().sum(0)
    return Probe(float((1 - residual).mean()), 0.0, len(truth))


def _standardised(train: torch.Tensor, held_out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Standardises both by the mean and deviation of the first, and adds a column of ones."""
    mean_, deviation = train.mean(0), train.std(0).clamp_min(1e-6)
    one, other = (functional.pad((x - mean_) / deviation, (0, 1), value=1.0) for x in (train, held_out))
    return one, other
