"""How pictures and words reach a model, and how its states come out: our own small models and those of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from vla.errors import UserError
from vla.models.decoding.sessions import DecodingSession, HubSession, TinySession
from vla.models.tiny.model import TinyVLM
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
        """Prompts padded to `length`, of which pictures that are not given need no part: `input_ids` and `attention_mask` [B, L],
        and what else the model takes.
        """
        ...

    def reader(self, inputs: Mapping[str, torch.Tensor], seen: Capture) -> DecodingSession:
        """A reader of these prompts, whose states are seen."""
        ...


def family(model: Any, processor: Any, image_tokens: int = 0, chat: bool = False) -> Family:
    """What fits this model.

    Raises:
        UserError: it does not generate token by token, nobody says how many tokens a picture has, or it has no chat template.
    """
    if chat and not any(getattr(one, "chat_template", None) for one in (processor, getattr(processor, "tokenizer", None))):
        raise UserError("the processor has no chat template", "representation", "leave chat out")
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
        places, tokenizer, count = self.processor.image_ids(), self.processor.tokenizer, len(images[0])
        if count > len(places):
            raise UserError(f"{count} pictures", "representation", f"the model has places for {len(places)}")
        # Places without a picture are left out, with their room.
        shown = sum(map(len, places[:count]))
        ids = torch.full((len(images), length - self.image_tokens + shown), tokenizer.pad_token_id)
        attention = torch.zeros(ids.shape, dtype=torch.bool)
        ids[:, :shown], attention[:, :shown] = self.image_id, True
        for row, text in enumerate(texts):
            words = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            check_length(self.image_tokens + len(words), length, text)
            ids[row, shown : shown + len(words)] = torch.tensor(words, dtype=torch.long)
            attention[row, shown : shown + len(words)] = True
        return {"input_ids": ids, "attention_mask": attention, "pixel_values": self.processor.pixels(images, count)}

    def reader(self, inputs: Mapping[str, torch.Tensor], seen: Capture) -> TinySession:
        device = self.model.device
        ids, attention, pixels = (inputs[name].to(device) for name in ("input_ids", "attention_mask", "pixel_values"))
        return TinySession(self.model, ids, attention, attention, pixels, show=seen.keep)


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

    def reader(self, inputs: Mapping[str, torch.Tensor], seen: Capture) -> HubSession:
        return HubSession(self.model, {name: value.to(self.model.device) for name, value in inputs.items()})


def check_length(tokens: int, length: int, text: str) -> None:
    """Raises UserError where a prompt is longer than the declared shape."""
    if tokens > length:
        raise UserError(
            f"a prompt of {tokens} tokens, {length} have room", f"prompt {text!r}", f"set words to {tokens - length} more"
        )
