"""The network that acts on prompted states: pooled, beside what is no picture, through hidden layers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from vla.promptable.pooler import MeanPooler, Pooler

Seen = Mapping[str, torch.Tensor]
"""`numbers` [B, N]; of a model's states `tokens` [B, L, raw] and `padding` [B, L]; of pictures `pictures` [B, C, 3, H, W]."""


class Head(nn.Module):
    """A policy's or a critic's head.

    Args:
        numbers: what is no picture.
        out: numbers that come out.
        raw: width of the model's states; 0 where none are seen.
        cameras: pictures that a network from scratch sees (the control).
        pooler: "attention", the paper's, or "mean"; `width`, `heads` and `hidden` are the former's.
        pooled: width of the pooled vector, and of a picture's.
        mix: layers of the states that are weighted into one.
        net: widths of the hidden layers.
    """

    def __init__(
        self,
        numbers: int,
        out: int,
        raw: int = 0,
        cameras: int = 0,
        pooler: str = "attention",
        width: int = 512,
        heads: int = 2,
        hidden: int = 512,
        pooled: int = 128,
        mix: int = 1,
        net: Sequence[int] = (128,),
    ):
        super().__init__()
        self.pooler = None
        if raw:
            self.pooler = MeanPooler(raw, pooled, mix) if pooler == "mean" else Pooler(raw, width, heads, hidden, pooled, mix)
        self.looks = nn.ModuleList(_look(pooled) for _ in range(cameras))
        sizes = [numbers + pooled * (bool(raw) + cameras), *net]
        hidden_layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())]
        self.net = nn.Sequential(*hidden_layers, nn.Linear(sizes[-1], out))

    def forward(self, seen: Seen) -> torch.Tensor:
        """[B, out]."""
        parts = [seen["numbers"]]
        if self.pooler is not None:
            parts.append(self.pooler(seen["tokens"], seen["padding"]))
        parts += [look(seen["pictures"][:, place]) for place, look in enumerate(self.looks)]
        return self.net(torch.cat(parts, 1))


def _look(out: int) -> nn.Module:
    """The convolutions of Mnih et al. 2015 (Nature 518)."""
    sizes = ((3, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1))
    layers = [part for a, b, kernel, stride in sizes for part in (nn.Conv2d(a, b, kernel, stride), nn.ReLU())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64 * 16, out), nn.ReLU())
