"""What a linear map reads off states: prompts, layers and poolings ranked in minutes, before any reinforcement learning."""

from __future__ import annotations

import dataclasses

import torch
from torch.nn import functional

from vla.errors import UserError
from vla.promptable.pooler import mean
from vla.promptable.representation import States

POOLINGS = ("all", "written")
"""The mean over all tokens, or over those of the answer."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """How well a linear map does on observations that it was not fitted to.

    Attributes:
        score: accuracy of a class, or R² of numbers (1 is perfect, 0 no better than their mean).
        chance: accuracy of the most frequent class, or 0.
        n: held-out observations.
    """

    score: float
    chance: float
    n: int


def pooled(states: States, pooling: str, layers: int) -> torch.Tensor:
    """States as vectors [B, layers * D]: each layer's mean over the tokens, one beside the other.

    Raises:
        UserError: unknown pooling, or nothing was written.
    """
    if pooling not in POOLINGS or (pooling == "written" and not states.written.shape[1]):
        raise UserError(
            f"pooling {pooling!r} of {states.written.shape[1]} written tokens", "probe", f"one of {', '.join(POOLINGS)}"
        )
    tokens, padding = states.tokens.float().unflatten(1, (-1, layers)), states.padding[:, ::layers]
    if pooling == "written":
        start = tokens.shape[1] - states.written.shape[1]
        tokens, padding = tokens[:, start:], padding[:, start:]
    return torch.cat([mean(tokens[:, :, layer], padding) for layer in range(layers)], 1)


def classify(
    train: torch.Tensor, labels: torch.Tensor, held_out: torch.Tensor, truth: torch.Tensor, decay: float = 1e-3
) -> Probe:
    """Accuracy of a logistic regression fitted to vectors [N, F] and labels [N] (integers from 0), on others."""
    classes = int(max(labels.max(), truth.max())) + 1
    known, asked = _standard(train, held_out)
    weights = torch.zeros(known.shape[1], classes, requires_grad=True)
    search = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        search.zero_grad()
        value = functional.cross_entropy(known @ weights, labels) + decay * weights.square().sum()
        value.backward()
        return value

    search.step(loss)  # type: ignore[arg-type]
    right = (asked @ weights.detach()).argmax(1) == truth
    return Probe(float(right.float().mean()), float(truth.bincount().max() / len(truth)), len(truth))


def regress(train: torch.Tensor, values: torch.Tensor, held_out: torch.Tensor, truth: torch.Tensor, decay: float = 1e-2) -> Probe:
    """R² of a ridge regression from vectors [N, F] to values [N, K], on others; the mean over the K values."""
    known, asked = _standard(train, held_out)
    penalty = decay * len(known) * torch.eye(known.shape[1])
    penalty[-1, -1] = 0.0
    weights = torch.linalg.solve(known.T @ known + penalty, known.T @ values)
    residual = (truth - asked @ weights).square().sum(0) / (truth - truth.mean(0)).square().sum(0)
    return Probe(float((1 - residual).mean()), 0.0, len(truth))


def _standard(train: torch.Tensor, held_out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both scaled as the first is, with a column of ones."""
    middle, spread = train.mean(0), train.std(0).clamp_min(1e-6)
    return tuple(functional.pad((x - middle) / spread, (0, 1), value=1.0) for x in (train, held_out))  # type: ignore[return-value]
