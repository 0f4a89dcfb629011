"""The inputs of a model: token sequences with their images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

PREFIX, BLOCK = 1, 2
"""Groups whose tokens attend to one another: the prompt, and the blanks of a `vla.models.decoding.allowed.Block`."""


@dataclasses.dataclass
class ModelInputs:
    """A batch of token sequences. The model family maps these fields to the arguments of its model.

    Attributes:
        ids: int64 [B, L], with one placeholder per image token.
        attention: bool or int64 [B, L], 0 is padding.
        images: the preprocessed images, by the names of the model's arguments.
        group: int8 [B, L], `PREFIX` or `BLOCK` where a token belongs to such a group, else 0; None: all tokens are prefix.
        branch: int64 [B, L], 0 for the images, then 1, 2, … for each prompt with its answer, which attend to the images and to
            themselves; None: there is one prompt.
    """

    ids: torch.Tensor
    attention: torch.Tensor
    images: Mapping[str, torch.Tensor]
    group: torch.Tensor | None = None
    branch: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> ModelInputs:
        """Returns a copy on a device."""

        def move(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return ModelInputs(
            self.ids.to(device, non_blocking=True),
            self.attention.to(device, non_blocking=True),
            {name: value.to(device, non_blocking=True) for name, value in self.images.items()},
            move(self.group),
            move(self.branch),
        )
