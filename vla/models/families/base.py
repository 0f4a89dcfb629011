"""What training, acting and reading states need of a kind of vision-language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from vla.errors import UserError
from vla.models.decoding.cpu_decode_step import Show
from vla.models.decoding.session import DecodingSession
from vla.models.decoding.static import StaticSteps
from vla.models.inputs import ModelInputs

Images = Sequence[np.ndarray]
"""Of one observation: uint8 [H, W, 3] each, in the order of the placeholders."""
Places = Sequence[np.ndarray | None]
"""The same for every place that the model has; None is an image that is not there."""


class ModelFamily(Protocol):
    """How one kind of model is fed and read. It holds the processor and no weights: loader processes have one too.

    `image_ids` and `images` are for training and acting, where a sequence is laid out token by token; `prompts` is for whole
    prompts, as the model's own processor lays them out.

    Attributes:
        processor: of transformers.
        tokenizer: its tokenizer.
        image_id: the placeholder of an image token.
        new_weights: parts of names of weights that a saved model may lack.
    """

    processor: Any
    tokenizer: Any
    image_id: int
    new_weights: tuple[str, ...]

    def __init__(self, processor: Any, config: Any, image_tokens: int = 0, chat: bool = False): ...

    @staticmethod
    def history_settings(model_type: str, history: int) -> dict[str, int]:
        """Settings of configuration and processor for so many images per camera.

        Raises:
            UserError: models of this family cannot be trained.
        """
        ...

    @property
    def image_tokens(self) -> int:
        """Tokens of one observation's images together.

        Raises:
            UserError: the processor does not say, and no setting does.
        """
        ...

    def image_ids(self, count: int) -> list[list[int]]:
        """The placeholders of a sample's `count` images: for each as many ids as it has tokens.

        Raises:
            UserError: models of this family cannot be trained, or the model takes another number of images.
        """
        ...

    def images(self, samples: Sequence[Places]) -> Mapping[str, torch.Tensor]:
        """The images of a batch as the model takes them; raises UserError where one has another form."""
        ...

    def prompts(self, images: Sequence[Images], texts: Sequence[str], length: int) -> ModelInputs:
        """Prompts with their images, padded to `length`; images that are not given take no room.

        Raises:
            UserError: a prompt is longer, or has other images than the model takes.
        """
        ...

    def score(self, model: Any, inputs: ModelInputs, positions: torch.Tensor) -> torch.Tensor:
        """Logits [N, V] of the token after each of N `positions` (bool [B, L]), row by row; with gradients."""
        ...

    def session(
        self, model: Any, inputs: ModelInputs, static: StaticSteps | None = None, show: Show | None = None
    ) -> DecodingSession:
        """A decoding session over these prompts, on the model's device.

        Args:
            static: what reads the tokens of the answer, made for this model; None: its own modules.
            show: is told the states of layers that are computed without calling the layers' modules.
        """
        ...

    def decoder(self, model: Any) -> nn.Module:
        """The language model, which has `layers`."""
        ...

    def end_ids(self, model: Any) -> list[int]:
        """The tokens that end an answer."""
        ...


def check_length(tokens: int, length: int, text: str) -> None:
    """Raises UserError where a prompt is longer than the declared shape."""
    if tokens > length:
        raise UserError(
            f"a prompt of {tokens} tokens, {length} have room", f"prompt {text!r}", f"set words to {tokens - length} more"
        )
