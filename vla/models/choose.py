"""Which token is written, given its logits: a sample, the likeliest one, or a statistic of an ordinal token's distribution."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vla.contract import Statistic
from vla.models.allowed import Scale

NEIGHBOURHOOD = 1 / 32
"""Half width of the mode's neighbourhood, as a share of the values: 8 of 256 bins."""


def ordinal_choice(logits: torch.Tensor, statistic: Statistic) -> torch.Tensor:
    """Which of rising values an ordinal token takes: logits [..., U], of values in their order, -inf where illegal -> [...].

    The mode is the likeliest value. The median is the lowest value at or below which half of the probability lies. The local
    mean is the legal value nearest to the mean of the mode's neighbourhood.
    """
    if statistic == "mode":
        return logits.argmax(-1)
    shares = logits.softmax(-1)
    if statistic == "median":
        half = shares.new_full((*shares.shape[:-1], 1), 0.5)
        return torch.searchsorted(shares.cumsum(-1), half)[..., 0]
    values = torch.arange(logits.shape[-1], device=logits.device)
    near = (values - logits.argmax(-1, keepdim=True)).abs() <= len(values) * NEIGHBOURHOOD
    shares = shares * near
    mean = (shares * values).sum(-1, keepdim=True) / shares.sum(-1, keepdim=True)
    return (values - mean).abs().masked_fill(logits == -torch.inf, torch.inf).argmin(-1)


def likeliest(logits: torch.Tensor, scales: Sequence[Scale] = ()) -> torch.Tensor:
    """The likeliest of all words [...], from logits [..., V]; where it is of a scale, that scale's statistic among its words."""
    words = logits.argmax(-1)
    for scale in scales:
        ids = scale.words.to(logits.device)
        statistic = ids[ordinal_choice(logits[..., ids], scale.statistic)]
        words = torch.where(torch.isin(words, ids), statistic, words)
    return words
