"""The family of Qwen2-VL, Qwen2.5-VL and Qwen3-VL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from vla.models.families.hub import HubFamily
from vla.models.families.hub_session import HubModel, core
from vla.models.inputs import ModelInputs


class QwenFamily(HubFamily):
    """Qwen's vision-language models (Wang et al. 2024): an image has as many tokens as its size asks for, and positions are
    three-dimensional: time, row and column."""

    trains = True

    @property
    def image_text(self) -> str:
        return f"<|vision_start|>{self.processor.image_token}<|vision_end|>"

    def _chosen(self, made: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {name: made[name] for name in ("pixel_values", "image_grid_thw")}

    def token_types(self, inputs: ModelInputs) -> dict[str, torch.Tensor]:
        return {"mm_token_type_ids": (inputs.ids == self.image_id).int()}

    def plain_positions(self, model: HubModel, inputs: ModelInputs) -> torch.Tensor:
        grid, attention = inputs.images["image_grid_thw"], inputs.attention.long()
        index: Callable[..., tuple[torch.Tensor, ...]] = core(model).model.get_rope_index  # type: ignore[assignment]
        return index(inputs.ids, image_grid_thw=grid, attention_mask=attention, **self.token_types(inputs))[0]
