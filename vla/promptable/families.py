"""How pictures and words reach a model, and how its states come out: our own small models and those of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from vla.errors import UserError
from vla.models.model import TinyVLM
from vla.models.readers import HubReader, PrefixReader, Reader
from vla.promptable.layers import Capture

Pictures = Sequence[np.ndarray]
"""Of one observation: uint8 [H, W, 3] each."""


class Family(Protocol):
    """What a representation needs of a model.

    Attributes:
        decoder: its language model.
        image_tokens: of one observation's pictures together.
        image_id: the placeholder of an image token.
        eos: ids that would end an answer.
    """

    decoder: Any
    image_tokens: int
    image_id: int
    eos: list[int]

    def inputs(self, images: Sequence[Pictures], texts: Sequence[str], length: int) -> Mapping[str, torch.Tensor]:
        """Prompts padded to `length`: `input_ids` and `attention_mask` [B, length], and what else the model takes."""
        ...

    def reader(self, inputs: Mapping[str, torch.Tensor]) -> Reader:
        """A reader of these prompts."""
        ...

    def written(self, reader: Any, ids: torch.Tensor, seen: Capture) -> dict[int, torch.Tensor]:
        """The states [B, N, D] per layer of written tokens [B, N], all but the last of which the reader has read."""
        ...


def family(model: Any, processor: Any, image_tokens: int = 0, chat: bool = False) -> Family:
    """What fits this model.

    Raises:
        UserError: it does not generate token by token, or nobody says how many tokens a picture has.
    """
    if isinstance(model, TinyVLM):
        return OwnFamily(model, processor)
    if model.config.is_encoder_decoder or not model.can_generate():
        raise UserError(f"{type(model).__name__} does not write token by token", "representation", "use a decoder-only VLM")
    return HubFamily(model, processor, image_tokens, chat)


class OwnFamily:
    """A `TinyVLM`: placeholders of the pictures first, then the words, padded on the right."""

    def __init__(self, model: TinyVLM, processor: Any):
        self.model, self.processor, self.decoder = model, processor, model.language
        self.image_id, self.image_tokens = processor.image_token_id, sum(map(len, processor.image_ids()))
        self.eos = [processor.tokenizer.eos_token_id]

    def inputs(self, images: Sequence[Pictures], texts: Sequence[str], length: int) -> dict[str, torch.Tensor]:
        places, tokenizer = self.processor.image_ids(), self.processor.tokenizer
        if len(images[0]) > len(places):
            raise UserError(f"{len(images[0])} pictures", "representation", f"the model has places for {len(places)}")
        ids = torch.full((len(images), length), tokenizer.pad_token_id)
        attention = torch.zeros(ids.shape, dtype=torch.bool)
        ids[:, : self.image_tokens] = self.image_id
        # Places without a picture are seen by nobody.
        attention[:, : sum(map(len, places[: len(images[0])]))] = True
        for row, text in enumerate(texts):
            words = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            check_length(self.image_tokens + len(words), length, text)
            end = self.image_tokens + len(words)
            ids[row, self.image_tokens : end] = torch.tensor(words, dtype=torch.long)
            attention[row, self.image_tokens : end] = True
        unseen = [None] * (len(places) - len(images[0]))
        pixels = self.processor.pixels([[*pictures, *unseen] for pictures in images])
        return {"input_ids": ids, "attention_mask": attention, "pixel_values": pixels}

    def reader(self, inputs: Mapping[str, torch.Tensor]) -> PrefixReader:
        device = self.model.device
        ids, attention, pixels = (inputs[name].to(device) for name in ("input_ids", "attention_mask", "pixel_values"))
        return PrefixReader(self.model, ids, attention, attention, pixels)

    def written(self, reader: PrefixReader, ids: torch.Tensor, seen: Capture) -> dict[int, torch.Tensor]:
        # The written-out decoding step shows no states: the tokens are read once more, all at once, after the kept prompt.
        length, kept = reader.ids.shape[1], reader.cache
        kept.crop(length - kept.get_seq_length())
        attention = torch.cat([reader.attention[:, :length], torch.ones_like(ids, dtype=torch.bool)], 1)
        prefix = torch.cat([reader.prefix[:, :length], torch.zeros_like(ids, dtype=torch.bool)], 1)
        with seen.until_deepest():
            self.model.hidden(ids, None, attention, prefix, past_key_values=kept, use_cache=True)
        return {layer: states[-1] for layer, states in seen.states.items()}


class HubFamily:
    """An image-text-to-text model of transformers with its processor; prompts padded on the left.

    Args:
        image_tokens: of one observation's pictures; 0: the processor's `image_seq_length` says.
        chat: put the prompt into the chat template, as the user's turn.
    """

    def __init__(self, model: Any, processor: Any, image_tokens: int = 0, chat: bool = False):
        self.model, self.processor, self.chat = model, processor, chat
        self.decoder = model.get_decoder()
        self.image_id = model.config.image_token_id
        self.image_tokens = image_tokens or getattr(processor, "image_seq_length", 0)
        if not self.image_tokens:
            raise UserError("nobody says how many tokens a picture has", "representation", "set image_tokens")
        eos = model.generation_config.eos_token_id
        self.eos = [] if eos is None else list(eos) if isinstance(eos, list | tuple) else [eos]

    def inputs(self, images: Sequence[Pictures], texts: Sequence[str], length: int) -> Mapping[str, torch.Tensor]:
        wrapped = [self._wrap(text, len(pictures)) for text, pictures in zip(texts, images, strict=True)]
        how = {"padding": "max_length", "max_length": length, "padding_side": "left", "return_tensors": "pt"}
        inputs = self.processor(text=wrapped, images=[list(pictures) for pictures in images], **how)
        check_length(inputs["input_ids"].shape[1], length, texts[0])
        tokens = (inputs["input_ids"] == self.image_id).sum(1)
        if (tokens != self.image_tokens).any():
            raise UserError(
                f"a prompt has {int(tokens[0])} image tokens", "representation", f"set image_tokens: {int(tokens[0])}"
            )
        # What some processors add for training.
        return {name: value for name, value in inputs.items() if name != "labels"}

    def _wrap(self, text: str, pictures: int) -> str:
        if not self.chat:
            return self.processor.image_token * pictures + text
        content = [*[{"type": "image"}] * pictures, {"type": "text", "text": text}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    def reader(self, inputs: Mapping[str, torch.Tensor]) -> HubReader:
        return HubReader(self.model, {name: value.to(self.model.device) for name, value in inputs.items()})

    def written(self, reader: HubReader, ids: torch.Tensor, seen: Capture) -> dict[int, torch.Tensor]:
        with seen.until_deepest():
            reader.read(ids[:, -1:], ids[0, :1])
        return {layer: torch.cat(states[1:], 1) for layer, states in seen.states.items()}


def check_length(tokens: int, length: int, text: str) -> None:
    """Raises UserError where a prompt is longer than the declared shape."""
    if tokens > length:
        raise UserError(
            f"a prompt of {tokens} tokens, {length} have room", f"prompt {text!r}", f"set words to {tokens - length} more"
        )
