"""The family of Idefics3 and SmolVLM."""

from __future__ import annotations

from typing import Any

import numpy as np

from vla.models.families.hub import HubFamily


class IdeficsFamily(HubFamily):
    """Idefics3 (Laurençon et al. 2024) and SmolVLM (Marafioti et al. 2025): an image is one tile, between tokens of its own."""

    trains = True
    one_tile = {"do_image_splitting": False}

    def _arranged(self, shown: list[list[np.ndarray]]) -> list[Any]:
        return shown

    def _chosen(self, made: dict[str, Any]) -> dict[str, Any]:
        return {name: made[name] for name in ("pixel_values", "pixel_attention_mask") if name in made}
