"""A small model of one's own: what a configuration says of it."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable
from typing import Any, Literal

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer

from vla.errors import UserError
from vla.models.load import new_tiny, shipped_folder
from vla.models.tiny.config import TinyVLMConfig
from vla.models.tiny.text import complete


@dataclasses.dataclass
class VLMSpec:
    """A small vision-language model with random weights: a timm network, a projector and a causal language model.

    Attributes:
        tokenizer: "tiny" (the shipped model's), "new" (trained on the simulator's words), a folder with one of transformers, or
            a public one's name; integers, places and `<image>` are added where it lacks them.
        text_config: of the language model: hidden_size, num_hidden_layers, …, which replace those of `tiny`; with model_type any
            other causal language model of transformers, all of whose sizes are then to be said.
        vision_name: a network of timm that has `features_only`.
        vision_args: its further arguments; by default none, for resnet10t those of `tiny`.
        stride: pixels per side of a cell of the network's map; it must have a map of that stride.
        image_size: side of the square to which pictures are scaled, in pixels.
        pools: one per camera, so many cells per side are one token; by default 1 for the first camera and 2 for the others.
        prefix: whether what stands before the answer sees itself whole, or backwards only.
        seed: of the weights.
    """

    tokenizer: str = "tiny"
    text_config: dict[str, Any] = dataclasses.field(default_factory=dict)
    vision_name: str = TinyVLMConfig.vision_name
    vision_args: dict[str, Any] | None = None
    stride: int = TinyVLMConfig.stride
    image_size: int = TinyVLMConfig.image_size
    pools: list[int] | None = None
    prefix: Literal["bidirectional", "causal"] = "bidirectional"
    seed: int = 0

    def make(self, new_tokenizer: Callable[[], Any] | None = None, history: int = 1, cameras: int = 2) -> tuple[Any, Any]:
        """The model and its processor.

        Args:
            new_tokenizer: makes the one that is called "new".
            history: pictures per camera.
            cameras: how many there are.

        Raises:
            UserError: no such tokenizer or network, or sizes that do not fit together.
        """
        settings = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "tokenizer"}
        settings["pools"] = self.pools or [1] + [2] * (cameras - 1)
        tokenizer = self._tokenizer(new_tokenizer)
        try:
            return new_tiny(tokenizer, history=history, **settings)
        except (ValueError, RuntimeError, TypeError, AttributeError, ZeroDivisionError, StrictDataclassError) as error:
            why = textwrap.shorten(str(error), 300)
            raise UserError(
                f"no model can be made: {why}", "model.vlm", "look at its vision_name, vision_args and text_config"
            ) from error

    def _tokenizer(self, new_tokenizer: Callable[[], Any] | None) -> Any:
        if self.tokenizer == "new":
            if new_tokenizer is None:
                raise UserError("there is no corpus for a new tokenizer", "model.vlm", "name a tokenizer")
            return new_tokenizer()
        where = str(shipped_folder()) if self.tokenizer == "tiny" else self.tokenizer
        try:
            return complete(AutoTokenizer.from_pretrained(where))
        except (OSError, ValueError) as error:
            why = str(error).strip().splitlines()[0]
            raise UserError(
                f"cannot load the tokenizer: {why}", self.tokenizer, "name tiny, new, a folder or a public tokenizer"
            ) from error


SHORT = {"scratch": VLMSpec("tiny"), "new": VLMSpec("new")}
"""Names for the structure of `tiny` with random weights."""
