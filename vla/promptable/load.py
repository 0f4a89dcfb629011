"""Loading the frozen model of a representation."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, ProcessorMixin

from vla.errors import UserError
from vla.models.load import load_vlm


def load_frozen(vlm: str, random: int = -1) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Loads a model, in float32, and its processor.

    Args:
        vlm: `tiny`, a folder, or a public model's name.
        random: seed of random weights that replace the model's own; -1: the weights are kept.

    Raises:
        UserError: no model is named, or it does not exist.
    """
    if not vlm:
        raise UserError("no model is named", "vlm", "give `tiny` or a model's folder")
    model, processor = load_vlm(vlm, dtype=torch.float32)
    if random >= 0:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random)
            model = type(model)(model.config)
    return model, processor
