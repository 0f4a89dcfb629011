"""Finding the family of a model.

A package adds a family of its own by an entry point, named by the `model_type` of its models:

    [project.entry-points."vla.families"]
    llava = "my_package:LlavaFamily"

The class implements `vla.models.families.base.ModelFamily`.
"""

from __future__ import annotations

from transformers import PreTrainedModel, ProcessorMixin

from vla.errors import UserError
from vla.models.families.base import ModelFamily
from vla.plugins import load_object, plugins

_HOME = "vla.models.families."
FAMILIES = {
    "vla-tiny": f"{_HOME}tiny:TinyFamily",
    "paligemma": f"{_HOME}gemma:PaliGemmaFamily",
    "gemma3": f"{_HOME}gemma:Gemma3Family",
    "qwen2_vl": f"{_HOME}qwen:QwenFamily",
    "qwen2_5_vl": f"{_HOME}qwen:QwenFamily",
    "qwen3_vl": f"{_HOME}qwen:QwenFamily",
    "idefics3": f"{_HOME}idefics:IdeficsFamily",
    "smolvlm": f"{_HOME}idefics:IdeficsFamily",
    "llava_onevision": f"{_HOME}llava:LlavaOnevisionFamily",
    "internvl": f"{_HOME}internvl:InternVLFamily",
    "openvla": f"{_HOME}openvla:OpenVLAFamily",
}
"""`model_type` of a configuration -> class of the family."""
OTHERS = "vla.models.families.hub:HubFamily"
"""The family of every other model."""
GROUP = "vla.families"


def trainable() -> list[str]:
    """The types of models that can be trained."""
    return sorted({*FAMILIES, *plugins(GROUP)})


def family_class(model_type: str) -> type[ModelFamily]:
    """Returns the class of the family that models of this type belong to."""
    return load_object(plugins(GROUP).get(model_type) or FAMILIES.get(model_type) or OTHERS)


def family_of(model: PreTrainedModel, processor: ProcessorMixin, image_tokens: int = 0, chat: bool = False) -> ModelFamily:
    """Makes the family object of a model with its processor.

    Args:
        image_tokens, chat: settings of `HubFamily`, for models that have no family of their own.

    Raises:
        UserError: the model does not write token by token, or `chat` is set and the processor has no chat template.
    """
    if chat and not any(getattr(one, "chat_template", None) for one in (processor, getattr(processor, "tokenizer", None))):
        raise UserError("the processor has no chat template", "representation", "leave chat out")
    if model.config.is_encoder_decoder or not model.can_generate():
        raise UserError(f"{type(model).__name__} does not write token by token", "representation", "use a decoder-only VLM")
    return family_class(model.config.model_type)(processor, model.config, image_tokens, chat)
