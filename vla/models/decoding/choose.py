"""Which token is written, given its logits: a sample, the likeliest one, or a statistic of an ordinal token's distribution."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vla.contract import Statistic
from vla.models.decoding.allowed import Ordinal

NEIGHBOURHOOD = 1 / 32
"""Half width of the mode's neighbourhood, as a share of the legal values: 8 of 256 bins."""


def ordinal_choice(logits: torch.Tensor, statistic: Statistic) -> torch.Tensor:
    """Which of rising values an ordinal token takes: logits [..., U], of values in their order, -inf where illegal -> [...].

    The mode is the likeliest value. The median is the lowest value at or below which half of the probability lies. The local
    mean is the legal value nearest to the mean of the mode's neighbourhood. NaN gives some value, as with `argmax`.
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
    """The likeliest of all words [...], from logits [..., V]; where it is one of an ordinal list, the statistic of that list."""
    words = logits.argmax(-1)
    for ordinal in ordinals:
        statistic = ordinal.words[ordinal_choice(logits[..., ordinal.words], ordinal.statistic)]
        words = torch.where(torch.isin(words, ordinal.words), statistic, words)
    return words
