"""Embeddings that know that 127 lies beside 128."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


@torch.no_grad()
def ordinal_init(model, ids: Sequence[int], noise: float = 0.2, seed: int = 0) -> None:
    """Writes a smooth code of the rank into the embedding rows of `ids`, which stand for rising values.

    A sum of sines and cosines of several wavelengths, from twice the range to about eight values, turned by a random rotation
    (so that different lists do not share their dimensions), scaled to the other rows' standard deviation, plus noise: neighbours
    start with similar logits, and a regression-like read-out is at hand.

    Args:
        model: has `get_input_embeddings`.
        ids: rows, in the order of their values.
        noise: standard deviation of the noise as a share of the code's.
        seed: of rotation and noise.
    """
    weight = model.get_input_embeddings().weight
    count, width = len(ids), weight.shape[1]
    generator = torch.Generator().manual_seed(seed)
    others = torch.ones(len(weight), dtype=torch.bool)
    others[list(ids)] = False
    scale = weight[others.to(weight.device)].std() if others.any() else torch.tensor(0.02)
    waves = min(16, width // 2)
    cycles = torch.logspace(math.log2(0.5), math.log2(max(1.0, count / 8)), waves, base=2.0)
    angles = 2 * math.pi * torch.arange(count)[:, None] / count * cycles
    code = torch.cat([angles.cos(), angles.sin()], 1)
    rotation = torch.linalg.qr(torch.randn(width, 2 * waves, generator=generator)).Q
    code = code @ rotation.T
    code = code / code.std() + noise * torch.randn(count, width, generator=generator)
    weight[list(ids)] = (code / code.std() * scale.cpu()).to(weight)
