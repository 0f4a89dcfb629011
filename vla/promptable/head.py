"""The head of a policy or critic: pooled states, images and numeric inputs through hidden layers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from vla.promptable.pooler import MeanPooler, Pooler

HeadInputs = Mapping[str, torch.Tensor]
"""`numbers` [B, N]; with a model's states `tokens` [B, L, raw] and `padding` [B, L]; with images `images` [B, C, 3, H, W]."""


class Head(nn.Module):
    """The head of a policy or a critic.

    Args:
        numbers: number of numeric inputs.
        out: number of outputs.
        raw: width of the model's states; 0: there are none.
        cameras: number of images that are encoded from scratch (the control).
        pooler: "attention", the paper's, or "mean"; `width`, `heads` and `hidden` are settings of the former.
        pooled: width of the pooled vector, and of an encoded image.
        mix: number of layers whose states are weighted into one.
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
        # One image encoder per camera; the name is part of saved weights.
        self.looks = nn.ModuleList(_image_encoder(pooled) for _ in range(cameras))
        sizes = [numbers + pooled * (bool(raw) + cameras), *net]
        hidden_layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())]
        self.net = nn.Sequential(*hidden_layers, nn.Linear(sizes[-1], out))

    def forward(self, inputs: HeadInputs) -> torch.Tensor:
        """Returns the outputs [B, out]."""
        parts = [inputs["numbers"]]
        if self.pooler is not None:
            parts.append(self.pooler(inputs["tokens"], inputs["padding"]))
        parts += [encode(inputs["images"][:, camera]) for camera, encode in enumerate(self.looks)]
        return self.net(torch.cat(parts, 1))


def _image_encoder(out: int) -> nn.Module:
    """The convolutions of Mnih et al. 2015 (Nature 518)."""
    sizes = ((3, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1))
    layers = [layer for a, b, kernel, stride in sizes for layer in (nn.Conv2d(a, b, kernel, stride), nn.ReLU())]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64 * 16, out), nn.ReLU())
