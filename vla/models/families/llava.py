"""The family of LLaVA-OneVision."""

from __future__ import annotations

from typing import Any

import torch

from vla.models.families.hub import HubFamily


class LlavaOnevisionFamily(HubFamily):
    """LLaVA-OneVision (Li et al. 2024). Every image is seen as one of several: one tile, which a line-break token ends."""

    trains = True

    def _of_size(self, size: tuple[int, int]) -> list[int]:
        processor: Any = self.processor
        # Without the vision network's class token, if the model leaves it out.
        patches = processor.num_image_tokens - (processor.vision_feature_select_strategy == "default")
        return [self.image_id] * (patches + 1)

    def _chosen(self, made: dict[str, Any]) -> dict[str, torch.Tensor]:
        sizes = made["image_sizes"]
        # The first tile is the whole image. A model that is told of several images uses no other tile.
        many = torch.tensor([max(len(sizes), 2)])
        return {"pixel_values": made["pixel_values"][:, :1], "image_sizes": sizes, "batch_num_images": many}
