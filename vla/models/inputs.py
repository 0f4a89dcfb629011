"""What a model reads: token sequences with their images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

PREFIX, BLOCK = 1, 2
"""Groups whose tokens see one another: a prompt's, and blanks that are filled at once (`vla.models.decoding.allowed.Block`)."""


@dataclasses.dataclass
class ModelInputs:
    """A batch of token sequences. Who reads it, a model family, knows what its model calls these tensors.

    Attributes:
        ids: int64 [B, L], with a placeholder for every image token.
        attention: bool or int64 [B, L], 0 is padding.
        images: what the family's processor made of the images, under the model's own names.
        group: int8 [B, L], `PREFIX` or `BLOCK` where a token belongs to one, 0 where to none; None: the prompt is all prefix.
        branch: int64 [B, L], 0 for the images, then 1, 2, … for each prompt with its answer, which see the images and themselves;
            None: one prompt.
    """

    ids: torch.Tensor
    attention: torch.Tensor
    images: Mapping[str, torch.Tensor]
    group: torch.Tensor | None = None
    branch: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> ModelInputs:
        """The same on a device."""

        def move(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return ModelInputs(
            self.ids.to(device, non_blocking=True),
            self.attention.to(device, non_blocking=True),
            {name: value.to(device, non_blocking=True) for name, value in self.images.items()},
            move(self.group),
            move(self.branch),
        )
