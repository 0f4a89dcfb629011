"""The frozen model that a representation is of, by its name."""

from __future__ import annotations

from typing import Any

import torch

from vla.errors import UserError
from vla.models.load import load_vlm


def load_frozen(vlm: str, random: int = -1) -> tuple[Any, Any]:
    """Model, in float32, and processor.

    Args:
        vlm: `tiny`, a folder, or a public model's name.
        random: weights drawn by this seed take the place of the model's own; -1 leaves them.

    Raises:
        UserError: no model is named, or there is none of that name.
    """
    if not vlm:
        raise UserError("no model is named", "vlm", "give `tiny` or a model's folder")
    model, processor = load_vlm(vlm, dtype=torch.float32)
    if random >= 0:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random)
            model = type(model)(model.config)
    return model, processor
