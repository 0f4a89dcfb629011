"""The families of PaliGemma, whose prompt is bidirectional, and of Gemma 3, whose images are."""

from __future__ import annotations

import torch

from vla.models.families.base import PromptFrame
from vla.models.families.hub import HubFamily
from vla.models.families.hub_session import HubModel
from vla.models.inputs import PREFIX, ModelInputs


class PaliGemmaFamily(HubFamily):
    """PaliGemma and PaliGemma 2 (Beyer et al. 2024): images, <bos>, the prompt and a line break see one another.

    The images see the prompt, so prompts cannot branch off them.
    """

    trains, branches = True, False

    @property
    def frame(self) -> PromptFrame:
        line = self.tokenizer("\n", add_special_tokens=False)["input_ids"]
        return PromptFrame(after_images=(self.tokenizer.bos_token_id,), after=tuple(line))

    def _of_size(self, size: tuple[int, int]) -> list[int]:
        # Every image is scaled to the same size. The processor itself would add <bos> and a line break.
        return [self.image_id] * self.image_tokens

    def token_types(self, inputs: ModelInputs) -> dict[str, torch.Tensor]:
        prefix = torch.ones_like(inputs.ids) if inputs.group is None else inputs.group == PREFIX
        return {"token_type_ids": 1 - prefix.long()}

    def _groups(self, inputs: ModelInputs) -> torch.Tensor:
        return torch.zeros_like(inputs.ids) if inputs.group is None else inputs.group.long()

    def plain_positions(self, model: HubModel, inputs: ModelInputs) -> torch.Tensor:
        return super().plain_positions(model, inputs) + 1


class Gemma3Family(HubFamily):
    """Gemma 3 (2025): the tokens of an image see one another; most layers see a window only."""

    trains = True

    def token_types(self, inputs: ModelInputs) -> dict[str, torch.Tensor]:
        return {"token_type_ids": (inputs.ids == self.image_id).long()}

    def _groups(self, inputs: ModelInputs) -> torch.Tensor:
        group, image = super()._groups(inputs), inputs.ids == self.image_id
        begins = image & ~torch.nn.functional.pad(image, (1, 0))[:, :-1]
        return torch.where(image, 10 + begins.cumsum(1), group)

    def _mask(self, inputs: ModelInputs, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        # `score` has made sure that the sequences are not longer than the window.
        mask = super()._mask(inputs, dtype)
        return {"full_attention": mask, "sliding_attention": mask}
