"""Readers feed a model what it has not read yet: first the prompts, later what was written since. Keys and values are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch.nn import functional
from transformers import DynamicCache

from vla.errors import UserError
from vla.models.lean import Kept, LeanStep, lean_step


class Reader(Protocol):
    """What decoding needs of a model with a batch of prompts.

    Attributes:
        rows: how many answers are written at once.
        device: where the model is.
    """

    rows: int
    device: torch.device

    def read(self, fresh: torch.Tensor, words: torch.Tensor | None) -> torch.Tensor:
        """Reads tokens [rows, N] (none at first: the prompts are read with them); logits of the next one, [rows, V], or of these
        words only."""
        ...

    def repeat(self, times: int) -> None:
        """Every prompt, once read, so many times one after the other."""
        ...


class PrefixReader:
    """Reads with a `TinyVLM`.

    Args:
        ids: [B, L] prompts, padded on the right.
        prefix: [B, L] True where a token belongs to the bidirectional prefix.
        attention: [B, L] False is padding.
        pixels: [B, C, 3, H, W] in [-1, 1].
    """

    def __init__(self, model: Any, ids: torch.Tensor, prefix: torch.Tensor, attention: torch.Tensor, pixels: torch.Tensor | None):
        self.model, self.ids, self.prefix, self.attention, self.pixels = model, ids, prefix.bool(), attention.bool(), pixels
        self.rows, self.device = len(ids), ids.device
        self.cache = DynamicCache()
        self._lean: LeanStep | None = None
        self._kept: Kept | None = None

    def read(self, fresh: torch.Tensor, words: torch.Tensor | None) -> torch.Tensor:
        if self._kept is not None:
            return self.model.logits(self._step(fresh), words)
        first = self.cache.get_seq_length() == 0
        last = self._last(self.attention) if first and not fresh.shape[1] else None
        self.attention = torch.cat([self.attention, torch.ones_like(fresh, dtype=torch.bool)], 1)
        self.prefix = torch.cat([self.prefix, torch.zeros_like(fresh, dtype=torch.bool)], 1)
        hidden = self.model.hidden(
            torch.cat([self.ids, fresh], 1) if first else fresh,
            self.pixels if first else None,
            self.attention,
            self.prefix,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        self._lean = lean_step(self.model.language)
        if self._lean is not None:
            self._keep()
        hidden = hidden[:, -1] if last is None else hidden[torch.arange(self.rows, device=self.device), last]
        return self.model.logits(hidden, words)

    def _keep(self) -> None:
        """Hands the kept keys and values over to the written-out step."""
        self._kept = Kept([(layer.keys, layer.values) for layer in self.cache.layers])  # type: ignore[arg-type]
        self._ends = self.attention.sum(1, keepdim=True)
        self._blind = torch.zeros(self.attention.shape, dtype=torch.float32).masked_fill_(~self.attention, -torch.inf)

    def _step(self, fresh: torch.Tensor) -> torch.Tensor:
        """The last state [B, D] after a few tokens, each of which sees the ones before it."""
        assert self._lean is not None and self._kept is not None
        count = fresh.shape[1]
        mask = torch.cat([self._blind, self._blind.new_zeros(self.rows, count)], 1)[:, None, None].repeat(1, 1, count, 1)
        if count > 1:
            mask[..., -count:] += torch.full((count, count), -torch.inf).triu(1)
        positions = self._ends + torch.arange(count, device=self.device)
        hidden = self._lean(fresh, positions, mask, self._kept)
        self._ends = self._ends + count
        self._blind = torch.cat([self._blind, self._blind.new_zeros(self.rows, count)], 1)
        return hidden[:, -1]

    def repeat(self, times: int) -> None:
        self.cache.batch_repeat_interleave(times)
        self.attention, self.prefix = (mask.repeat_interleave(times, 0) for mask in (self.attention, self.prefix))
        self.rows *= times
        if self._kept is not None:
            self._keep()

    @staticmethod
    def _last(attention: torch.Tensor) -> torch.Tensor:
        return (torch.arange(attention.shape[1], device=attention.device) * attention).argmax(1)


class HubReader:
    """Reads with any image-text-to-text model of transformers (PaliGemma, Qwen-VL, SmolVLM …).

    Positions, masks and what is fed when are the model's own; only the head is ours: it scores the words that are asked for.

    Args:
        model: of `AutoModelForImageTextToText`.
        inputs: as its processor makes them, prompts of unequal length padded on the left.

    Raises:
        UserError: a prompt is padded on the right: what comes next would follow padding.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Any]):
        self.model, self.ids = model, inputs["input_ids"]
        self.rows, self.device = len(self.ids), self.ids.device
        self.inputs = {name: value for name, value in inputs.items() if name != "input_ids"}
        mask = self.inputs.setdefault("attention_mask", torch.ones_like(self.ids))
        if not mask[:, -1].all():
            raise UserError("prompts are padded on the right", "decoding", 'padding_side="left" of the processor')
        self.inputs |= {"past_key_values": DynamicCache(config=model.config.get_text_config()), "use_cache": True}
        self.inputs["position_ids"] = model._prepare_position_ids_for_generation(self.ids, {**self.inputs, "input_ids": self.ids})
        self._first = True

    def read(self, fresh: torch.Tensor, words: torch.Tensor | None) -> torch.Tensor:
        if fresh.shape[1]:
            self.ids = torch.cat([self.ids, fresh], 1)
            self.inputs = self.model._update_model_kwargs_for_generation({}, self.inputs, num_new_tokens=fresh.shape[1])
        length = None if self._first else fresh.shape[1]
        fed = self.model.prepare_inputs_for_generation(
            self.ids, next_sequence_length=length, is_first_iteration=self._first, **self.inputs
        )
        self._first = False
        hidden = self.model.model(**fed).last_hidden_state[:, -1]
        return self._logits(hidden, words)

    def _logits(self, hidden: torch.Tensor, words: torch.Tensor | None) -> torch.Tensor:
        head = self.model.get_output_embeddings()
        weight, bias = head.weight, getattr(head, "bias", None)
        if words is not None:
            weight, bias = weight[words], None if bias is None else bias[words]
        logits = functional.linear(hidden, weight, bias)
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def repeat(self, times: int) -> None:
        self.inputs["past_key_values"].batch_repeat_interleave(times)
        self.ids = self.ids.repeat_interleave(times, 0)
        for name, value in self.inputs.items():
            # Positions may have a leading dimension of their own kind; pictures are read and not fed again.
            if isinstance(value, torch.Tensor) and name.endswith(("_mask", "_ids")):
                self.inputs[name] = value.repeat_interleave(times, value.dim() - 2)
        self.rows *= times
