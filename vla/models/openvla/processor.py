"""The processor of a published OpenVLA checkpoint: images and text to tensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, BatchFeature, ProcessorMixin
from transformers.utils.hub import cached_file

from vla.errors import UserError
from vla.models.openvla.config import OpenVLAConfig

STRATEGIES = ("resize-naive", "resize-crop", "letterbox")
SETTINGS = ("input_sizes", "means", "stds", "interpolations", "image_resize_strategy")
"""What preprocessor_config.json of a published checkpoint has for us."""


class PrismaticProcessor(ProcessorMixin):
    """A tokenizer with the preprocessing of images. It has the published name, by which `AutoProcessor` finds it.

    Args:
        tokenizer: of the language model.
        input_sizes: (3, height, width) of the image that each vision network sees; the images are squares.
        means, stds: of red, green and blue, which are 0 to 1, for each network.
        interpolations: how each network's image is scaled: bicubic or bilinear.
        image_resize_strategy: resize-naive scales an image to the square; resize-crop scales its shorter side and takes the
            centre; letterbox first adds borders.
        patch: side of a patch, in pixels.
    """

    image_token = "<unk>"
    """The placeholder, see `OpenVLAConfig.image_token_id`."""

    def __init__(
        self,
        tokenizer: Any = None,
        input_sizes: Sequence[Sequence[int]] = ((3, 224, 224), (3, 224, 224)),
        means: Sequence[Sequence[float]] = ((0.485, 0.456, 0.406), (0.5, 0.5, 0.5)),
        stds: Sequence[Sequence[float]] = ((0.229, 0.224, 0.225), (0.5, 0.5, 0.5)),
        interpolations: Sequence[str] = ("bicubic", "bicubic"),
        image_resize_strategy: str = "resize-naive",
        patch: int = 14,
        chat_template: str | None = None,
    ):
        super().__init__(tokenizer, chat_template=chat_template)
        if image_resize_strategy not in STRATEGIES:
            raise UserError(f"image_resize_strategy {image_resize_strategy!r}", "processor", f"one of {', '.join(STRATEGIES)}")
        self.input_sizes, self.patch = [list(size) for size in input_sizes], patch
        self.means, self.stds = [list(mean) for mean in means], [list(std) for std in stds]
        self.interpolations, self.image_resize_strategy = list(interpolations), image_resize_strategy

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> PrismaticProcessor:
        """Loads a published checkpoint's processor, or one that `save_pretrained` wrote. No code of the checkpoint runs."""
        known = ("cache_dir", "force_download", "local_files_only", "token", "revision")
        options = {key: kwargs[key] for key in known if key in kwargs}
        found = {}
        for name in ("preprocessor_config.json", "processor_config.json"):
            path = cached_file(pretrained_model_name_or_path, name, _raise_exceptions_for_missing_entries=False, **options)
            if path:
                with open(path, encoding="utf-8") as file:
                    content = json.load(file)
                found |= {key: content[key] for key in (*SETTINGS, "patch") if content.get(key) is not None}
        if "input_sizes" not in found:
            raise OSError("preprocessor_config.json is missing, or does not say the images' sizes")
        return cls(AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **options), **found)

    @property
    def image_seq_length(self) -> int:
        """The number of tokens of an image."""
        _, height, width = self.input_sizes[0]
        return (height // self.patch) * (width // self.patch)

    def pixels(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Images, uint8 [H, W, 3] of any size -> float32 [N, 3 per vision network, S, S].

        Raises:
            UserError: an image is not uint8 RGB.
        """
        return torch.stack([self._pixels(image) for image in images])

    def _pixels(self, image: np.ndarray) -> torch.Tensor:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(f"an image of shape {image.shape} and type {image.dtype}", "observation", "give uint8 [H, W, 3]")
        pil = Image.fromarray(np.ascontiguousarray(image))
        if self.image_resize_strategy == "letterbox":
            pil = _letterboxed(pil, tuple(int(255 * value) for value in self.means[-1]))
        squares, parts = {}, []
        for (_, height, width), mean, std, how in zip(self.input_sizes, self.means, self.stds, self.interpolations, strict=True):
            key = (height, width, how)
            if key not in squares:
                squares[key] = np.asarray(self._square(pil, height, width, how), np.float32) / np.float32(255)
            parts.append((squares[key] - np.array(mean, np.float32)) / np.array(std, np.float32))
        return torch.from_numpy(np.concatenate(parts, 2)).movedim(2, 0).contiguous()

    def _square(self, pil: Image.Image, height: int, width: int, how: str) -> Image.Image:
        resampling = Image.Resampling[how.upper()]
        if self.image_resize_strategy == "resize-naive":
            return pil.resize((width, height), resampling)
        # The shorter side gets the square's length; the other is cut at both ends.
        short = min(pil.size)
        scaled = pil.resize((height * pil.width // short, height * pil.height // short), resampling)
        left, top = round((scaled.width - width) / 2), round((scaled.height - height) / 2)
        return scaled.crop((left, top, left + width, top + height))

    def __call__(self, images=None, text=None, padding=False, max_length=None, padding_side="right", **_) -> BatchFeature:  # type: ignore[override]
        """Encodes prompts with one image each: `<s>`, the image's placeholders, then the text.

        Args:
            images: one image per prompt, or a list with it.
            text: the prompts.
            padding, max_length, padding_side: as of a tokenizer.

        Returns:
            input_ids [B, L], attention_mask [B, L] and pixel_values [B, 3 or 6, S, S].
        """
        texts = [text] if isinstance(text, str) else list(text or [])
        shown = [
            one for image in (images if images is not None else []) for one in (image if isinstance(image, list) else [image])
        ]
        if len(shown) != len(texts):
            raise UserError(f"{len(shown)} images for {len(texts)} prompts", "processor", "give one image per prompt")
        start = [self.tokenizer.bos_token_id, *[self.tokenizer.unk_token_id] * self.image_seq_length]
        rows = [start + self.tokenizer(one, add_special_tokens=False, split_special_tokens=True)["input_ids"] for one in texts]
        options = {"padding": padding or True, "max_length": max_length, "padding_side": padding_side, "return_tensors": "pt"}
        return BatchFeature({**self.tokenizer.pad({"input_ids": rows}, **options), "pixel_values": self.pixels(shown)})


def _letterboxed(pil: Image.Image, fill: tuple[int, ...]) -> Image.Image:
    """The image in the middle of a square of its longer side, within a border of that colour."""
    side = max(pil.size)
    left, top = (side - pil.width) // 2, (side - pil.height) // 2
    square = Image.new("RGB", (pil.width + 2 * left, pil.height + 2 * top), fill)
    square.paste(pil, (left, top))
    return square


AutoProcessor.register(OpenVLAConfig, PrismaticProcessor, exist_ok=True)
