"""Pictures and words as the small model wants them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, BatchFeature, ProcessorMixin

from vla.errors import UserError
from vla.models.config import TinyVLMConfig


class TinyVLMProcessor(ProcessorMixin):
    """A tokenizer and the preprocessing of pictures.

    Args:
        tokenizer: a fast tokenizer that has `<image>`.
        image_size: side of the model's square pictures, in pixels.
        image_tokens: how many tokens each camera's picture becomes.
    """

    def __init__(self, tokenizer=None, image_size: int = 64, image_tokens: Sequence[int] = (64, 16), chat_template=None):
        super().__init__(tokenizer, chat_template=chat_template)
        self.image_size, self.image_tokens = image_size, list(image_tokens)

    @property
    def image_token_id(self) -> int:
        return self.tokenizer.convert_tokens_to_ids("<image>")

    def image_ids(self) -> list[int]:
        """The placeholders of one sample's pictures: as many ids as they have tokens."""
        return [self.image_token_id] * sum(self.image_tokens)

    def pixels(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """One picture per camera, uint8 [H, W, 3] of any size -> float32 [C, 3, S, S] in [-1, 1]; no crop.

        Raises:
            UserError: another number of pictures than cameras, or not uint8 RGB.
        """
        if len(images) != len(self.image_tokens):
            raise UserError(f"{len(images)} pictures", "processor", f"give one per camera: {len(self.image_tokens)}")
        return torch.stack([self._picture(np.asarray(image)) for image in images])

    def _picture(self, image: np.ndarray) -> torch.Tensor:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(f"a picture of shape {image.shape}, {image.dtype}", "processor", "give uint8 [H, W, 3] RGB")
        if image.shape[:2] != (self.image_size, self.image_size):
            resized = Image.fromarray(image).resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)
            image = np.asarray(resized)
        return torch.from_numpy(image.astype(np.float32) / 127.5 - 1).permute(2, 0, 1).contiguous()

    def __call__(self, images=None, text=None, **kwargs) -> BatchFeature:  # type: ignore[override]
        """Prompts with their pictures: placeholders first, then the words, left-padded as `generate` of transformers wants it.

        Args:
            images: per sample a list of pictures, one per camera.
            text: one prompt per sample; a string is one sample.

        Returns:
            input_ids [B, L], attention_mask [B, L] and pixel_values [B, C, 3, S, S].
        """
        texts = [text] if isinstance(text, str) else list(text or [])
        rows = [self.image_ids() * (images is not None) + self.tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
        data = dict(self.tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt"))
        if images is not None:
            data["pixel_values"] = torch.stack([self.pixels(sample) for sample in images])
        return BatchFeature(data)


AutoProcessor.register(TinyVLMConfig, TinyVLMProcessor, exist_ok=True)
