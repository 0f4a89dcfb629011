"""The hash of everything but the weights that decides how a model reads images and text."""

from __future__ import annotations

import hashlib
import json
from typing import cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
IGNORED = ("_name_or_path", "name_or_path", "transformers_version", "architectures", "dtype", "processor_class")
"""Entries that tell where a model was stored and how, and have no influence on what it computes."""


def reading_hash(model: PreTrainedModel, processor: ProcessorMixin) -> str:
    """Returns the SHA-256 of the configurations of model, processor and generation, and of the tokenizer's vocabulary."""
    tokenizer = cast(PreTrainedTokenizerBase, getattr(processor, "tokenizer", processor))
    parts = [model.config.to_diff_dict(), processor.to_dict(), tokenizer.get_vocab(), tokenizer.chat_template]
    generation = getattr(model, "generation_config", None)
    parts.append(generation.to_diff_dict() if generation is not None else {})
    return hashlib.sha256(json.dumps(_without_ignored(parts), sort_keys=True, default=str).encode()).hexdigest()


def _without_ignored(value: Json) -> Json:
    """Removes ignored entries at all levels, and turns keys into text."""
    if isinstance(value, dict):
        return {str(k): _without_ignored(v) for k, v in value.items() if k not in IGNORED}
    return [_without_ignored(v) for v in value] if isinstance(value, list | tuple) else value
