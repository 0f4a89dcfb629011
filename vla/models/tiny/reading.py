"""How the small model reads instructions and questions by a frozen text encoder.

A text is a run of the encoder's own ids, each `FIRST` higher, from the encoder's first special token to its last. The model
replaces them by the encoder's states, projected to its width. They pass through sequences, batches and sessions like other ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from vla.errors import UserError
from vla.language.encoders import load_encoder
from vla.models.tiny.config import TinyVLMConfig
from vla.models.weights import weights_hash

if TYPE_CHECKING:
    from vla.models.tiny.model import TinyVLM

FIRST = 1_000_000
"""The id that stands for the encoder's id 0: above every vocabulary."""
LIMIT = 64
"""The most tokens of a text that are read."""


class Reading(nn.Module):
    """The projector of the encoder's states to embeddings of the language model.

    Args:
        states, width: sizes of the encoder's states and of the embeddings.
    """

    def __init__(self, states: int, width: int):
        super().__init__()
        self.project = nn.Sequential(nn.Linear(states, width), nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width))
        for module in self.modules():  # keep torch's initialisation, as in `Vision`
            module._is_hf_initialized = True  # type: ignore[assignment]

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States [N, S] -> embeddings [N, D]."""
        return self.project(states)


def encoder_of(config: TinyVLMConfig) -> PreTrainedModel | None:
    """The frozen encoder of a configuration, with random weights; None if it has none."""
    if not config.encoder_config:
        return None
    settings = dict(config.encoder_config)
    encoder = AutoModel.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    return encoder.eval().requires_grad_(False)


@torch.no_grad()
def put_encoder(model: TinyVLM, encoder: PreTrainedModel) -> None:
    """Copies an encoder's weights, and gives what is read the scale of the language model's words."""
    target = cast(PreTrainedModel, model.text_encoder)
    target.load_state_dict(encoder.state_dict())
    cast(nn.LayerNorm, cast(Reading, model.reading).project[-1]).weight.fill_(float(model.get_input_embeddings().weight.std()))


@torch.no_grad()
def put_named_encoder(model: TinyVLM) -> None:
    """Gives a model whose weights lack the encoder's those of the encoder that its configuration names.

    Raises:
        UserError: it has not been fetched, or it is another one.
    """
    name, _, digest = model.config.text_encoder.rpartition(" ")
    encoder, _ = load_encoder(name)
    if (found := weights_hash(encoder.state_dict())[: len(digest)]) != digest:
        raise UserError(f"the model was trained behind {name} {digest}, this is {found}", name, "fetch it again")
    cast(PreTrainedModel, model.text_encoder).load_state_dict(encoder.state_dict())


def texts_of(ids: Iterable[int], first: int) -> list[tuple[int, ...]]:
    """Splits runs of ids into texts, each of which begins with the encoder's id `first`; returns the encoder's own ids."""
    texts: list[list[int]] = []
    for word in ids:
        if word - FIRST == first or not texts:
            texts.append([])
        texts[-1].append(word - FIRST)
    return [tuple(text) for text in texts]
