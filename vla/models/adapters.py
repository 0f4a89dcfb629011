"""Low-rank adapters (Hu et al. 2021) by peft: a few added weights are trained, and the model's own are frozen."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import cast

from transformers import PreTrainedModel

from vla.errors import UserError


@dataclasses.dataclass(frozen=True)
class Lora:
    """Settings of the adapters.

    Attributes:
        rank: rank of the added matrices; 0 adds none.
        alpha: the product of the matrices is scaled by alpha / rank.
        dropout: dropout rate of the adapters' input.
        targets: names of layers, or a regular expression for full names; "all-linear" is every linear layer except the head.
        also: names of layers that are trained in full, e.g. the embeddings, if action tokens were added.
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str | list[str] = "all-linear"
    also: list[str] = dataclasses.field(default_factory=list)


def add_lora(model: PreTrainedModel, lora: Lora) -> PreTrainedModel:
    """Adds adapters to a model and freezes its own weights. Returns the model unchanged if the rank is 0.

    The adapted model is a `PeftModel`, which passes attributes and calls on to the model that it wraps.

    Raises:
        UserError: peft is not installed, or a target matches no layer.
    """
    if not lora.rank:
        return model
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise UserError("peft is not installed", "model.lora", "install vla[lora]") from error
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        modules_to_save=lora.also or None,
    )
    try:
        return cast(PreTrainedModel, get_peft_model(model, config))
    except (ValueError, re.error) as error:
        raise UserError(str(error).splitlines()[0], "model.lora", "name layers of the model") from error


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """Returns the plain model with its adapters merged into the weights; the model itself if it has no adapters."""
    merge: Callable[[], PreTrainedModel] | None = getattr(model, "merge_and_unload", None)
    return model if merge is None else merge()
