"""What decides, beside its weights, what a model makes of pictures and words."""

from __future__ import annotations

import hashlib
import json
from typing import Any

UNIMPORTANT = ("_name_or_path", "name_or_path", "transformers_version", "architectures", "dtype", "processor_class")
"""Entries that say where a model was and how it was kept."""


def reading_hash(model: Any, processor: Any) -> str:
    """SHA-256 over the model's configuration, its processor's and its tokenizer: another mean of pictures, other words."""
    tokenizer = getattr(processor, "tokenizer", processor)
    parts = [model.config.to_diff_dict(), processor.to_dict(), tokenizer.get_vocab(), tokenizer.chat_template]
    generation = getattr(model, "generation_config", None)
    parts.append(generation.to_diff_dict() if generation is not None else {})
    return hashlib.sha256(json.dumps(_plain(parts), sort_keys=True, default=str).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items() if k not in UNIMPORTANT}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
