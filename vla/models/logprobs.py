"""The one log-probability function: supervised loss, decoding, scoring and policy gradients all use it."""

from __future__ import annotations

import torch


def token_logprobs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[ids] in float32: logits [..., V], ids [...] -> [...].

    Where it learns it is the gathered logit minus the log-sum-exp, which spares keeping the table of log-probabilities.
    """
    logits = logits.float()
    if not logits.requires_grad:
        return logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    return logits.gather(-1, ids[..., None])[..., 0] - logits.logsumexp(-1)


def masked_sum(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Sum of each row's values where the mask holds: [..., L] -> [...], the log-probability of a whole answer."""
    return values.masked_fill(~mask, 0.0).sum(-1)


def scored(labels: torch.Tensor) -> torch.Tensor:
    """Positions whose logits are needed: [B, L] bool, True at p where token p + 1 has a label (-100 is none)."""
    needed = torch.zeros_like(labels, dtype=torch.bool)
    needed[:, :-1] = labels[:, 1:] != -100
    return needed


def allowed_mass(logits: torch.Tensor, ids: torch.Tensor, legal: torch.Tensor | None = None) -> torch.Tensor:
    """Share of the probability on `ids` [K], or on those of them that are `legal` [..., K]: logits [..., V] -> [...]."""
    logits = logits.float()
    chosen = logits[..., ids]
    if legal is not None:
        chosen = chosen.masked_fill(~legal, -torch.inf)
    return (chosen.logsumexp(-1) - logits.logsumexp(-1)).exp()
