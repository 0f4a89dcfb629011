"""The specification of a small model that is trained from scratch."""

from __future__ import annotations

import dataclasses
import difflib
import textwrap
from collections.abc import Callable
from typing import Any, Literal, cast

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from vla.errors import UserError
from vla.models.load import new_tiny, shipped_folder
from vla.models.tiny.config import TinyVLMConfig
from vla.models.tiny.model import TinyVLM
from vla.models.tiny.processor import TinyVLMProcessor
from vla.models.tiny.text import complete


@dataclasses.dataclass
class VLMSpec:
    """A small vision-language model with random weights: a timm network, a projector and a causal language model.

    Attributes:
        tokenizer: "tiny" (the shipped model's), "new" (trained on the simulator's words), a folder with a transformers tokenizer,
            or the name of a public one; integers, locations and `<image>` are added where it lacks them.
        text_config: settings of the language model (hidden_size, num_hidden_layers, …) that replace those of `tiny`. A model_type
            chooses another causal language model of transformers, all of whose sizes must then be given.
        vision_name: a timm network that supports `features_only`.
        vision_args: further arguments of the network; by default those of `tiny` for resnet10t, and none for others.
        stride: image pixels per side of a feature map cell; the network must have a feature map of that stride.
        image_size: side of the square to which images are resized, in pixels.
        pools: one per camera, cells per side that are averaged into one token; by default 1 for the first camera and 2 for the
            others.
        prefix: whether attention within the prompt is bidirectional or causal.
        seed: seed of the weights.
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

    def make(
        self, new_tokenizer: Callable[[], PreTrainedTokenizerBase] | None = None, history: int = 1, cameras: int = 2
    ) -> tuple[TinyVLM, TinyVLMProcessor]:
        """Makes the model and its processor.

        Args:
            new_tokenizer: makes the tokenizer named "new".
            history: images per camera.
            cameras: number of cameras.

        Raises:
            UserError: the tokenizer or network does not exist, or sizes do not fit together.
        """
        check_text_config(self.text_config)
        settings = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "tokenizer"}
        settings["pools"] = self.pools or [1] + [2] * (cameras - 1)
        tokenizer = self._tokenizer(new_tokenizer)
        try:
            return new_tiny(tokenizer, history=history, **settings)
        except (ValueError, RuntimeError, TypeError, AttributeError, ZeroDivisionError, StrictDataclassError) as error:
            why = textwrap.shorten(str(error), 300)
            raise UserError(
                f"no model can be made: {why}", "model.vlm", "check its vision_name, vision_args and text_config"
            ) from error

    def _tokenizer(self, new_tokenizer: Callable[[], PreTrainedTokenizerBase] | None) -> PreTrainedTokenizerBase:
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


def check_text_config(text: dict[str, Any]) -> None:
    """Checks that every setting of a language model has an effect.

    Raises:
        UserError: the output layer is to have weights of its own, or the model's configuration has no such setting.
    """
    if text.get("tie_word_embeddings") is False:
        raise UserError(
            "the output layer is always that of the embeddings", "model.vlm.text_config.tie_word_embeddings", "leave it out"
        )
    try:
        config = TinyVLMConfig(text_config=cast(PreTrainedConfig, text)).text_config
    except (ValueError, TypeError, StrictDataclassError):
        return  # the model says what is wrong with it
    known = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    # transformers keeps what it does not know, and has translated older names.
    for name in text.keys() & vars(config).keys() - set(known):
        fix = f"it has {', '.join(difflib.get_close_matches(name, known) or known)}"
        raise UserError(f"{config.model_type} has no setting {name}", "model.vlm.text_config", fix)


SHORT = {"scratch": VLMSpec("tiny"), "new": VLMSpec("new")}
"""Short names of specifications with the architecture of `tiny` and random weights."""
