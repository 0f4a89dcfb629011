"""The family of OpenVLA checkpoints as they are published."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vla.errors import UserError
from vla.models.families.base import Images, OptionalImages, Size
from vla.models.families.hub import HubFamily
from vla.models.inputs import ModelInputs


class OpenVLAFamily(HubFamily):
    """OpenVLA (Kim et al. 2024): `<s>`, the patches of one image, then the prompt; all of it is causal."""

    trains = True

    def image_ids(self, sizes: Sequence[Size | None]) -> list[list[int]]:
        if len(sizes) != 1:
            fix = "choose one of the data's cameras (`cameras: [NAME]` of the source), and history 1"
            raise UserError(f"OpenVLA takes one image, the contract gives {len(sizes)}", "model.vlm", fix)
        return super().image_ids(sizes)

    def _of_size(self, size: Size) -> list[int]:
        # Every image is scaled to the same size.
        return [self.image_id] * self.image_tokens

    def images(self, samples: Sequence[OptionalImages]) -> dict[str, torch.Tensor]:
        shown = [np.asarray(image) for images in samples for image in images if image is not None]
        return {"pixel_values": self.processor.pixels(shown)}  # type: ignore[attr-defined]

    def prompts(self, images: Sequence[Images], texts: Sequence[str], length: int) -> ModelInputs:
        if wrong := next((len(shown) for shown in images if len(shown) != 1), 0):
            raise UserError(f"OpenVLA takes one image, not {wrong}", "representation", "name one camera")
        return super().prompts(images, texts, length)

    def _wrap(self, text: str, images: int) -> str:
        # The processor itself adds the placeholders.
        return text
