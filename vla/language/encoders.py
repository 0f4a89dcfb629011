"""Frozen sentence encoders of transformers: the states of a text's tokens, and one vector per text."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from vla import hub
from vla.errors import UserError
from vla.fetched import fetched

CACHED = 8192
"""Number of texts whose states are kept: 15 KB each for 10 tokens of 384 numbers."""


def load_encoder(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads an encoder and its tokenizer, frozen.

    Args:
        name: minilm (all-MiniLM-L6-v2, see `vla models fetch`), a folder, or OWNER/NAME of a public model.

    Raises:
        UserError: there is no such encoder, or the model is no encoder with a fast tokenizer.
    """
    where = hub.weights_folder(fetched(name))
    try:
        model = AutoModel.from_pretrained(where, dtype=torch.float32, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(where)
    except (OSError, ValueError, RuntimeError) as error:
        why = str(error).strip().splitlines()[0]
        raise UserError(f"cannot load the encoder: {why}", name, "name minilm, a folder or a public sentence encoder") from error
    decodes = model.config.is_encoder_decoder or getattr(model.config, "is_decoder", False) or model.can_generate()
    # A decoder without its head does not say what it is, but an encoder's tokenizer begins every text with a token of its own.
    if decodes or not tokenizer("")["input_ids"]:
        raise UserError(f"{type(model).__name__} is no encoder", name, "name a sentence encoder, such as minilm")
    return model.eval().requires_grad_(False), tokenizer


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str, limit: int) -> list[int]:
    """The ids of a text with the encoder's own special tokens; what is beyond `limit` tokens is left out."""
    encoded: Any = tokenizer(text, truncation=True, max_length=limit, split_special_tokens=True)
    return encoded["input_ids"]


def token_states(encoder: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    """The last states [T, D] of one text's tokens, in the encoder's own precision.

    A text is encoded by itself: its states then depend on nothing else, so a resumed run gets the same to the last bit.
    """
    device = cast(nn.Embedding, encoder.get_input_embeddings()).weight.device
    # Not in inference mode, in which a policy may ask first: training could not use such states.
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        row = torch.tensor([list(ids)], device=device)
        return encoder(input_ids=row, attention_mask=torch.ones_like(row)).last_hidden_state[0]


class StateCache:
    """The states of texts by one frozen encoder, each computed once. The least recently used are dropped."""

    def __init__(self, most: int = CACHED):
        self.most = most
        self._states: OrderedDict[tuple[Any, ...], torch.Tensor] = OrderedDict()

    def __call__(self, encoder: PreTrainedModel, ids: tuple[int, ...]) -> torch.Tensor:
        """The states [T, D], on the encoder's device; see `token_states`."""
        weight = cast(nn.Embedding, encoder.get_input_embeddings()).weight
        key = (ids, weight.device, weight.dtype)
        if (states := self._states.get(key)) is None:
            states = self._states[key] = token_states(encoder, ids)
            if len(self._states) > self.most:
                self._states.popitem(last=False)
        self._states.move_to_end(key)
        return states

    def __deepcopy__(self, memo: dict[int, Any]) -> StateCache:
        return StateCache(self.most)

    def __getstate__(self) -> dict[str, Any]:
        return {"most": self.most, "_states": OrderedDict()}


class SentenceEncoder:
    """One vector per text: the mean of its tokens' states, of length 1 (Reimers and Gurevych 2019).

    Args:
        name: as for `load_encoder`.
    """

    def __init__(self, name: str = "minilm"):
        self.model, self.tokenizer = load_encoder(name)
        self.limit = min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings)

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts [N] -> vectors [N, D], float32. Their products are cosines."""
        means = [token_states(self.model, token_ids(self.tokenizer, text, self.limit)).mean(0) for text in texts]
        return nn.functional.normalize(torch.stack(means).float(), dim=-1)
