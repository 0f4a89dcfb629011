"""Pictures and words as the small model wants them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import AutoProcessor, BatchFeature, ProcessorMixin

from vla.errors import UserError
from vla.models.tiny.config import TinyVLMConfig
from vla.transforms import Resize


class TinyVLMProcessor(ProcessorMixin):
    """A tokenizer and the preprocessing of pictures.

    Args:
        tokenizer: a fast tokenizer that has `<image>`.
        image_size: side of the model's square pictures, in pixels.
        image_tokens: how many tokens each camera's picture becomes.
        history: pictures per camera, oldest first: all cameras' oldest, then the next …
    """

    def __init__(
        self, tokenizer=None, image_size: int = 64, image_tokens: Sequence[int] = (64, 16), history: int = 1, chat_template=None
    ):
        super().__init__(tokenizer, chat_template=chat_template)
        self.image_size, self.image_tokens, self.history = image_size, list(image_tokens), history

    @property
    def image_token_id(self) -> int:
        return self.tokenizer.convert_tokens_to_ids("<image>")

    def image_ids(self) -> list[list[int]]:
        """The placeholders of one sample's pictures: for each as many ids as it has tokens."""
        return [[self.image_token_id] * count for count in self.image_tokens * self.history]

    def pixels(self, samples: Sequence[Sequence[np.ndarray | None]], places: int = 0) -> torch.Tensor:
        """Per sample one picture per camera and time, uint8 [H, W, 3] of any size -> float32 [B, C, 3, S, S] in [-1, 1]; no crop.

        None is a picture that is not there: grey, and its tokens are to be masked.

        Args:
            samples: pictures.
            places: so many there are, the first; 0: all.

        Raises:
            UserError: another number of pictures than there are places, or not uint8 RGB.
        """
        places = places or len(self.image_tokens) * self.history
        wrong = next((len(images) for images in samples if len(images) != places), None)
        if wrong is not None:
            raise UserError(f"{wrong} pictures", "processor", f"give one per camera and time: {places}")
        unseen = [image is None for images in samples for image in images]
        blank = np.zeros((self.image_size, self.image_size, 3), np.uint8)
        frames = np.stack(
            [blank if image is None else self._picture(np.asarray(image)) for images in samples for image in images]
        )
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        pixels[torch.tensor(unseen)] = 0
        return pixels.unflatten(0, (len(samples), places))

    def _picture(self, image: np.ndarray) -> np.ndarray:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(f"a picture of shape {image.shape}, {image.dtype}", "processor", "give uint8 [H, W, 3] RGB")
        return Resize(self.image_size, self.image_size)(image)

    def __call__(self, images=None, text=None, **kwargs) -> BatchFeature:  # type: ignore[override]
        """Prompts with their pictures: placeholders first, then the words, left-padded as `generate` of transformers wants it.

        Args:
            images: per sample a list of pictures, one per camera.
            text: one prompt per sample; a string is one sample.

        Returns:
            input_ids [B, L], attention_mask [B, L] and pixel_values [B, C, 3, S, S].
        """
        texts = [text] if isinstance(text, str) else list(text or [])
        places = sum(self.image_ids(), []) if images is not None else []
        rows = [places + self.tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
        data = dict(self.tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt"))
        if images is not None:
            data["pixel_values"] = self.pixels(images)
        return BatchFeature(data)


AutoProcessor.register(TinyVLMConfig, TinyVLMProcessor, exist_ok=True)
