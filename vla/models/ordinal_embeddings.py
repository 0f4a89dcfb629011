"""Initial embeddings of ordinal tokens, in which neighbouring values are similar."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


@torch.no_grad()
def ordinal_init(weight: torch.Tensor, ids: Sequence[int], noise: float = 0.2, seed: int = 0) -> None:
    """Writes a smooth code of the rank into the rows of `ids`, whose values rise.

    The code is sines and cosines of several wavelengths, from twice the range down to about eight values, under a random
    rotation (so that different lists do not share dimensions), plus noise, scaled to the standard deviation of the other rows.
    Neighbouring values then start with similar logits, and a linear read-out of the value exists from the start.

    Args:
        weight: the embeddings or the output layer, [V, D]; changed in place.
        ids: rows, in the order of their values.
        noise: standard deviation of the noise, relative to the code's.
        seed: seed of rotation and noise.
    """
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
