"""The hash that identifies a model's weights, whatever file they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch

Weights = dict[str, torch.Tensor]


def weights_hash(weights: Weights) -> str:
    """Returns the SHA-256 of names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def files_hash(files: Iterable[Path]) -> str:
    """Returns the SHA-256 of the contents of files, in this order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            while part := content.read(2**20):
                digest.update(part)
    return digest.hexdigest()
