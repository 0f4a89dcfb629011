"""What weights are, whatever file they came from."""

from __future__ import annotations

import hashlib

import torch

Weights = dict[str, torch.Tensor]


def weights_hash(weights: Weights) -> str:
    """SHA-256 over names, types, shapes and values, whatever the order."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
