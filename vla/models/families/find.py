"""From a model to its family."""

from __future__ import annotations

import importlib
from typing import Any

from vla.errors import UserError
from vla.models.families.base import ModelFamily

FAMILIES = {"vla-tiny": "vla.models.families.tiny:TinyFamily"}
"""`model_type` of a configuration -> its family's class; all others are a `HubFamily`."""
OTHERS = "vla.models.families.hub:HubFamily"


def family_class(model_type: str) -> Any:
    """The class of the family that models of this type belong to."""
    module, _, name = FAMILIES.get(model_type, OTHERS).partition(":")
    return getattr(importlib.import_module(module), name)


def family_of(model: Any, processor: Any, image_tokens: int = 0, chat: bool = False) -> ModelFamily:
    """The family of a model, with its processor.

    Args:
        image_tokens, chat: of `ModelFamily.prompts`, for a model that no file here knows better; see `HubFamily`.

    Raises:
        UserError: the model does not write token by token, or chat is wanted of a processor without a template.
    """
    if chat and not any(getattr(one, "chat_template", None) for one in (processor, getattr(processor, "tokenizer", None))):
        raise UserError("the processor has no chat template", "representation", "leave chat out")
    if model.config.is_encoder_decoder or not model.can_generate():
        raise UserError(f"{type(model).__name__} does not write token by token", "representation", "use a decoder-only VLM")
    return family_class(model.config.model_type)(processor, model.config, image_tokens, chat)
