"""Models of transformers that no file here knows better: they answer and show their states, and cannot be trained yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import nn
from torch.nn import functional
from transformers import DynamicCache

from vla.errors import UserError
from vla.models.decoding.cpu_decode_step import Show
from vla.models.decoding.static import StaticStep, StaticSteps
from vla.models.families.base import Images, Places, check_length
from vla.models.inputs import ModelInputs


class HubFamily:
    """See `ModelFamily`; an image-text-to-text model of transformers with its processor. Prompts are padded on the left.

    Args:
        config: the model's.
        image_tokens: of one observation's images; 0: the processor's `image_seq_length` says.
        chat: put the prompt into the chat template, as the user's turn.
    """

    new_weights = ()

    def __init__(self, processor: Any, config: Any, image_tokens: int = 0, chat: bool = False):
        self.processor, self.tokenizer, self.chat = processor, getattr(processor, "tokenizer", processor), chat
        self.image_id, self._image_tokens = config.image_token_id, image_tokens

    @staticmethod
    def history_settings(model_type: str, history: int) -> NoReturn:
        raise _untrainable(f"a model of type {model_type}")

    @property
    def image_tokens(self) -> int:
        count = self._image_tokens or getattr(self.processor, "image_seq_length", 0)
        if not count:
            raise UserError("the processor does not say how many tokens an image has", "representation", "set image_tokens")
        return count

    def image_ids(self, count: int) -> NoReturn:
        raise _untrainable(f"a model with a {type(self.processor).__name__}")

    def images(self, samples: Sequence[Places]) -> NoReturn:
        raise _untrainable(f"a model with a {type(self.processor).__name__}")

    def prompts(self, images: Sequence[Images], texts: Sequence[str], length: int) -> ModelInputs:
        wrapped = [self._wrap(text, len(own)) for text, own in zip(texts, images, strict=True)]
        how = {"padding": "max_length", "max_length": length, "padding_side": "left", "return_tensors": "pt"}
        made = dict(self.processor(text=wrapped, images=[list(own) for own in images], **how))
        # Some processors add them.
        made.pop("labels", None)
        ids, attention = made.pop("input_ids"), made.pop("attention_mask")
        check_length(ids.shape[1], length, texts[0])
        tokens = (ids == self.image_id).sum(1)
        if (tokens != self.image_tokens).any():
            raise UserError(
                f"a prompt has {int(tokens[0])} image tokens", "representation", f"set image_tokens: {int(tokens[0])}"
            )
        return ModelInputs(ids, attention, made)

    def _wrap(self, text: str, images: int) -> str:
        if not self.chat:
            return self.processor.image_token * images + text
        content = [*[{"type": "image"}] * images, {"type": "text", "text": text}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    def score(self, model: Any, inputs: ModelInputs, positions: torch.Tensor) -> NoReturn:
        raise _untrainable(f"a {type(model).__name__}")

    def session(self, model: Any, inputs: ModelInputs, static: StaticSteps | None = None, show: Show | None = None) -> HubSession:
        inputs = inputs.to(model.device)
        return HubSession(model, {"input_ids": inputs.ids, "attention_mask": inputs.attention, **inputs.images}, static)

    def decoder(self, model: Any) -> nn.Module:
        return model.get_decoder()

    def end_ids(self, model: Any) -> list[int]:
        end = model.generation_config.eos_token_id
        return [] if end is None else list(end) if isinstance(end, list | tuple) else [end]


def _untrainable(what: str) -> UserError:
    return UserError(f"{what} cannot be trained yet", "model.vlm", "use `tiny`, an export, or a small model of your own")


class HubSession:
    """A decoding session with any image-text-to-text model of transformers (PaliGemma, Qwen-VL, SmolVLM …).

    Positions, masks and what is fed when are the model's own; only the head is ours: it scores the words that are asked for.

    Args:
        model: of `AutoModelForImageTextToText`.
        inputs: as its processor makes them, prompts of unequal length padded on the left.
        static: what reads the tokens of the answer, made for this model; None: its modules.

    Raises:
        UserError: a prompt is padded on the right: what comes next would follow padding; or a head that is not known.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Any], static: StaticSteps | None = None):
        self.model, self.ids, self.static = model, inputs["input_ids"], static
        self.rows, self.device, self.vocabulary = len(self.ids), self.ids.device, len(model.get_output_embeddings().weight)
        self._text = model.config.get_text_config()
        if getattr(self._text, "logits_scaling", 1) != 1:
            raise UserError(f"models of type {self._text.model_type} scale their logits", "decoding", "use another model")
        self.inputs = {name: value for name, value in inputs.items() if name != "input_ids"}
        mask = self.inputs.setdefault("attention_mask", torch.ones_like(self.ids))
        if not mask[:, -1].all():
            raise UserError("prompts are padded on the right", "decoding", 'padding_side="left" of the processor')
        self.inputs |= {"past_key_values": DynamicCache(config=self._text), "use_cache": True}
        self.inputs["position_ids"] = model._prepare_position_ids_for_generation(self.ids, {**self.inputs, "input_ids": self.ids})
        self._first = True
        self._next = torch.empty(0)
        self._running: StaticStep | None = None

    def read(self, fresh: torch.Tensor, words: torch.Tensor | None, ahead: int = 0, mutual: bool = False) -> torch.Tensor:
        if self.static is not None and not self._first:
            if self._running is None:
                kept, mask = self.inputs["past_key_values"].layers, self.inputs["attention_mask"].bool()
                self._running = self.static.begin(kept, mask, self._next)
            hidden, self._running = self._running.read(fresh, ahead, mutual)
            return self._logits(hidden[:, -1 - ahead :], words)
        if ahead and mutual:
            if "sliding_attention" in (getattr(self._text, "layer_types", None) or ()):
                fix = "write a causal block, or token by token"
                raise UserError("a bidirectional block, and layers that see a window only", self._text.model_type, fix)
            # A mask of our own: the model's is causal. It has made its own for the prompts, which are read before.
            before = fresh[:, : fresh.shape[1] - ahead]
            if self._first or before.shape[1]:
                hidden = torch.cat([self._hidden(before, 1), self._hidden(fresh[:, before.shape[1] :], ahead, mutual=True)], 1)
                return self._logits(hidden, words)
        return self._logits(self._hidden(fresh, 1 + ahead), words)

    def _hidden(self, fresh: torch.Tensor, wanted: int, mutual: bool = False) -> torch.Tensor:
        """The last states [B, wanted, D] after tokens [B, N]."""
        if fresh.shape[1]:
            self.ids = torch.cat([self.ids, fresh], 1)
            self.inputs = self.model._update_model_kwargs_for_generation({}, self.inputs, num_new_tokens=fresh.shape[1])
        length = None if self._first else fresh.shape[1]
        fed = self.model.prepare_inputs_for_generation(
            self.ids, next_sequence_length=length, is_first_iteration=self._first, **self.inputs
        )
        if mutual:
            fed["attention_mask"] = self.inputs["attention_mask"].bool()[:, None, None].expand(-1, 1, fresh.shape[1], -1)
        self._first = False
        if self.static is not None:
            self._next = fed["position_ids"][..., -1:] + 1
        return self.model.model(**fed).last_hidden_state[:, -wanted:]

    def _logits(self, hidden: torch.Tensor, words: torch.Tensor | None) -> torch.Tensor:
        head = self.model.get_output_embeddings()
        weight, bias = head.weight, getattr(head, "bias", None)
        if words is not None:
            weight, bias = weight[words], None if bias is None else bias[words]
        logits = functional.linear(hidden, weight, bias)
        cap = getattr(self._text, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def repeat(self, times: int) -> None:
        self.inputs["past_key_values"].batch_repeat_interleave(times)
        self.ids = self.ids.repeat_interleave(times, 0)
        for name, value in self.inputs.items():
            # Positions may have a leading dimension of their own kind; images are read and not fed again.
            if isinstance(value, torch.Tensor) and name.endswith(("_mask", "_ids")):
                self.inputs[name] = value.repeat_interleave(times, value.dim() - 2)
        self._next = self._next.repeat_interleave(times, self._next.dim() - 2)
        self.rows *= times
