"""Greedy choice of a token from its logits: the likeliest word, or a statistic of an ordinal token's distribution."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vla.contract import Statistic
from vla.models.decoding.allowed import Ordinal

NEIGHBOURHOOD = 1 / 32
"""Half the width of the mode's neighbourhood, as a share of the number of legal values: 8 of 256 bins."""


def ordinal_choice(logits: torch.Tensor, statistic: Statistic) -> torch.Tensor:
    """Chooses a value of an ordinal token: logits [..., U] in the order of the values, -inf where illegal -> indices [...].

    The mode is the likeliest value. The median is the lowest value at or below which half of the probability lies. The local
    mean is the legal value nearest to the mean over the mode's neighbourhood. With NaN the index is arbitrary but in range.
    """
    if statistic == "mode":
        return logits.argmax(-1)
    shares = logits.softmax(-1)
    if statistic == "median":
        return (shares.cumsum(-1) < 0.5).sum(-1)
    values = torch.arange(logits.shape[-1], device=logits.device)
    count = (logits > -torch.inf).sum(-1, keepdim=True)
    near = (values - logits.argmax(-1, keepdim=True)).abs() <= count * NEIGHBOURHOOD
    shares = shares * near
    mean = (shares * values).sum(-1, keepdim=True) / shares.sum(-1, keepdim=True)
    return (values - mean).abs().masked_fill(logits == -torch.inf, torch.inf).argmin(-1)


def likeliest(logits: torch.Tensor, ordinals: Sequence[Ordinal] = ()) -> torch.Tensor:
    """Returns the likeliest words [...], from logits [..., V]; instead of an ordinal token, the statistic of its list."""
    words = logits.argmax(-1)
    for ordinal in ordinals:
        statistic = ordinal.words[ordinal_choice(logits[..., ordinal.words], ordinal.statistic)]
        words = torch.where(torch.isin(words, ordinal.words), statistic, words)
    return words
