"""The processor of the small model: images and text to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from transformers import AutoProcessor, AutoTokenizer, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from vla.errors import UserError
from vla.language.encoders import token_ids
from vla.models.tiny.config import TinyVLMConfig
from vla.models.tiny.reading import FIRST, LIMIT
from vla.transforms import Resize, scaled

READER = "text_encoder"
"""Folder of the text encoder's tokenizer."""


class TinyVLMProcessor(ProcessorMixin):
    """A tokenizer with the preprocessing of images.

    Args:
        tokenizer: a fast tokenizer with an `<image>` token.
        image_size: side of the model's square images, in pixels.
        image_tokens: number of tokens of each camera's image.
        reads: whether a text encoder reads instructions and questions; its tokenizer is saved in the folder `text_encoder`.
        history: images per camera. Images are ordered by time, oldest first, and within a time by camera.
    """

    def __init__(
        self,
        tokenizer=None,
        image_size: int = 64,
        image_tokens: Sequence[int] = (64, 16),
        history: int = 1,
        reads: bool = False,
        chat_template=None,
    ):
        super().__init__(tokenizer, chat_template=chat_template)
        self.reads = reads
        self.reader: PreTrainedTokenizerBase | None = None
        self.image_size, self.image_tokens, self.history = image_size, list(image_tokens), history

    def words(self, text: str) -> list[int]:
        """The ids of an instruction or question: the text encoder's, if there is one, or the tokenizer's."""
        if self.reader is not None:
            return [FIRST + i for i in token_ids(self.reader, text, LIMIT)]
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def to_dict(self, *args, **kwargs) -> dict[str, Any]:
        """The settings, without the text encoder's tokenizer, which is a folder of its own."""
        reader, self.reader = self.reader, None
        try:
            # A processor of an earlier version does not know the setting.
            left_out = {"reader"} if self.reads else {"reader", "reads"}
            return {k: v for k, v in super().to_dict(*args, **kwargs).items() if k not in left_out}
        finally:
            self.reader = reader

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Saves the processor, and the text encoder's tokenizer in a folder beside it."""
        if self.reader is not None:
            self.reader.save_pretrained(Path(save_directory) / READER)
        return super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Loads what `save_pretrained` wrote."""
        processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if processor.reads:
            processor.reader = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, subfolder=READER)
        return processor

    @property
    def image_token_id(self) -> int:
        """The id of the image placeholder."""
        return self.tokenizer.convert_tokens_to_ids("<image>")

    def image_ids(self) -> list[list[int]]:
        """Returns the placeholders of one sample's images: for each image, one id per token."""
        return [[self.image_token_id] * count for count in self.image_tokens * self.history]

    def pixels(self, samples: Sequence[Sequence[np.ndarray | None]], per_sample: int = 0) -> torch.Tensor:
        """Resizes and normalises images, uint8 [H, W, 3] of any size -> float32 [B, C, 3, S, S] in [-1, 1], without cropping.

        A missing image (None) becomes grey; its tokens must be masked.

        Args:
            samples: the images of each sample, one per camera and time.
            per_sample: the number of images of each sample, the first of those that the model takes; 0: all of them.

        Raises:
            UserError: a sample has another number of images, or an image is not uint8 RGB.
        """
        per_sample = per_sample or len(self.image_tokens) * self.history
        wrong = next((len(images) for images in samples if len(images) != per_sample), None)
        if wrong is not None:
            raise UserError(f"{wrong} images", "processor", f"give one per camera and time: {per_sample}")
        missing = [image is None for images in samples for image in images]
        blank = np.zeros((self.image_size, self.image_size, 3), np.uint8)
        frames = np.stack(
            [blank if image is None else self._resized(np.asarray(image)) for images in samples for image in images]
        )
        pixels = rearrange(torch.from_numpy(scaled(frames)), "n h w rgb -> n rgb h w")
        pixels[torch.tensor(missing)] = 0
        return rearrange(pixels, "(b image) rgb h w -> b image rgb h w", b=len(samples))

    def _resized(self, image: np.ndarray) -> np.ndarray:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(f"an image of shape {image.shape}, {image.dtype}", "processor", "give uint8 [H, W, 3] RGB")
        return Resize(self.image_size, self.image_size)(image)

    def __call__(self, images=None, text=None, **kwargs) -> BatchFeature:  # type: ignore[override]
        """Encodes prompts with their images: placeholders, then the text, padded on the left as `generate` of transformers needs.

        Args:
            images: a list of images per sample, one per camera and time.
            text: one prompt per sample; a string is a single prompt.

        Returns:
            input_ids [B, L], attention_mask [B, L] and pixel_values [B, C, 3, S, S].
        """
        texts = [text] if isinstance(text, str) else list(text or [])
        placeholders = sum(self.image_ids(), []) if images is not None else []
        tokens = [self.words(t) if self.reader else self.tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
        rows = [placeholders + words for words in tokens]
        data = dict(self.tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt"))
        if images is not None:
            data["pixel_values"] = self.pixels(images)
        return BatchFeature(data)


AutoProcessor.register(TinyVLMConfig, TinyVLMProcessor, exist_ok=True)
