"""Low-rank adapters (Hu et al. 2021) through peft: a few weights learn, the model's own stay."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from vla.errors import UserError


@dataclasses.dataclass(frozen=True)
class Lora:
    """What is adapted, and how.

    Attributes:
        rank: of the added matrices; 0 adds none.
        alpha: their product is scaled by alpha / rank.
        dropout: of what goes into them.
        targets: names of the layers, or one regular expression for whole names; "all-linear" is every linear layer but the head.
        also: names of layers that learn in full, e.g. the embeddings in which action tokens stand.
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str | list[str] = "all-linear"
    also: list[str] = dataclasses.field(default_factory=list)


def add_lora(model: Any, lora: Lora) -> Any:
    """The model with adapters in it; everything else is frozen. The same model where the rank is 0.

    Raises:
        UserError: peft is not installed, or a target is in no layer's name.
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
        return get_peft_model(model, config)
    except (ValueError, re.error) as error:
        raise UserError(str(error).splitlines()[0], "model.lora", "name layers that the model has") from error


def merged(model: Any) -> Any:
    """A model of the plain class with the adapters' products added to its weights; the model itself where it has none."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
