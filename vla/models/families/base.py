"""The protocol of a model family, which training, policies and representations use."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

from vla.errors import UserError
from vla.models.decoding.kv_cache import Show
from vla.models.decoding.session import DecodingSession, FastSteps
from vla.models.inputs import ModelInputs

Images = Sequence[np.ndarray]
"""The images of one observation, uint8 [H, W, 3] each, in the order of the placeholders."""
OptionalImages = Sequence[np.ndarray | None]
"""One entry per image that the model takes; None is a missing image."""
Size = tuple[int, int]
"""Height and width of an image."""


@dataclasses.dataclass(frozen=True)
class PromptFrame:
    """The tokens that a model expects around a prompt that is in no chat template.

    Attributes:
        before: before everything.
        after_images: between the last image and the words.
        after: after the words.
    """

    before: tuple[int, ...] = ()
    after_images: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


class ModelFamily(Protocol):
    """Prepares the inputs of one kind of model and runs it. Holds the processor but no weights, so data loaders can use it, too.

    `image_ids` and `images` serve training and policies, which lay out a sequence token by token. `prompts` serves
    representations, which use the prompt layout of the model's own processor.

    Attributes:
        processor: the model's processor.
        tokenizer: the processor's `PreTrainedTokenizerBase`, whose own types leave open whether a special id is an int.
        image_id: id of the image placeholder.
        image_text: the text that stands for an image in the chat template.
        frame: what stands around a prompt that is in no chat template.
        words: a function from an instruction or question to its ids, for models that read it by a text encoder; None: it is text
            like the rest of the prompt.
        text_encoder: name and hash of that encoder, as the contract has it; "" is none.
        new_weights: parts of the names of weights that a saved model may lack.
    """

    processor: ProcessorMixin
    tokenizer: Any
    image_id: int
    words: Callable[[str], list[int]] | None
    text_encoder: str

    @property
    def image_text(self) -> str: ...

    @property
    def frame(self) -> PromptFrame: ...

    new_weights: tuple[str, ...]

    def __init__(self, processor: ProcessorMixin, config: PreTrainedConfig, image_tokens: int = 0, chat: bool = False): ...

    @classmethod
    def history_settings(cls, model_type: str, history: int) -> dict[str, int]:
        """Returns settings of configuration and processor for `history` images per camera.

        Raises:
            UserError: models of this family cannot be trained.
        """
        ...

    @property
    def image_tokens(self) -> int:
        """The number of image tokens of one observation, over all its images.

        Raises:
            UserError: neither the processor nor a setting gives it.
        """
        ...

    def image_ids(self, sizes: Sequence[Size | None]) -> list[list[int]]:
        """Returns the placeholders of a sample's images: for each image, one id per token.

        Args:
            sizes: height and width of each image; None is a missing image, which may have tokens all the same.

        Raises:
            UserError: models of this family cannot be trained, or the model takes another number of images.
        """
        ...

    def images(self, samples: Sequence[OptionalImages]) -> Mapping[str, torch.Tensor]:
        """Preprocesses the images of a batch. Raises UserError if an image has the wrong shape or type."""
        ...

    def prompts(self, images: Sequence[Images], texts: Sequence[str], length: int) -> ModelInputs:
        """Encodes prompts with their images, padded to `length`. Images that are not given take no tokens.

        Raises:
            UserError: a prompt is longer than `length`, or the model does not take this number of images.
        """
        ...

    def score(self, model: PreTrainedModel, inputs: ModelInputs, positions: torch.Tensor) -> torch.Tensor:
        """Returns next-token logits [N, V] at N `positions` (bool [B, L]), row by row; with gradients."""
        ...

    def session(
        self, model: PreTrainedModel, inputs: ModelInputs, steps: FastSteps | None = None, show: Show | None = None
    ) -> DecodingSession:
        """Starts a decoding session with these prompts, on the model's device.

        Args:
            steps: decoding steps of this model for the answer's tokens; None: the model's modules are called.
            show: is called with the states of layers that are computed without calling the layers' modules.
        """
        ...

    def decoder(self, model: PreTrainedModel) -> PreTrainedModel:
        """Returns the language model, whose blocks are `layers`."""
        ...

    def end_ids(self, model: PreTrainedModel) -> list[int]:
        """Returns the ids of tokens that end an answer."""
        ...


def check_length(tokens: int, length: int, text: str) -> None:
    """Raises UserError if a prompt has more tokens than the declared length."""
    if tokens > length:
        raise UserError(
            f"a prompt has {tokens} tokens, but there is room for {length}",
            f"prompt {text!r}",
            f"set words to {tokens - length} more",
        )
