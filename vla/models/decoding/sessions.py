"""Readers feed a model what it has not read yet: first the prompts, later what was written since. Keys and values are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch.nn import functional
from transformers import DynamicCache

from vla.errors import UserError
from vla.models.decoding.cpu_decode_step import KVCache, Show, cpu_decode_step
from vla.models.decoding.static import StaticStep, StaticSteps
from vla.models.tiny.attention import BLOCK


class DecodingSession(Protocol):
    """What decoding needs of a model with a batch of prompts.

    Attributes:
        rows: how many answers are written at once.
        device: where the model is.
        vocabulary: how many tokens it has.
    """

    rows: int
    device: torch.device
    vocabulary: int

    def read(self, fresh: torch.Tensor, words: torch.Tensor | None, ahead: int = 0, mutual: bool = False) -> torch.Tensor:
        """Reads tokens and says what comes next; the prompts are read with the first.

        Args:
            fresh: [rows, N]; N may be 0 at first.
            words: score these only; None: all.
            ahead: so many of the tokens, the last, are blanks, and what follows each of them is wanted too.
            mutual: whether the blanks see those behind them.

        Returns:
            Logits [rows, 1 + ahead, V] of what follows the last token before the blanks, and each blank.
        """
        ...

    def repeat(self, times: int) -> None:
        """Every prompt, once read, so many times one after the other."""
        ...


class TinySession:
    """Reads with a `TinyVLM`.

    Args:
        ids: [B, L] prompts, padded on the right.
        prefix: [B, L] 1 where a token belongs to the bidirectional prefix.
        attention: [B, L] False is padding.
        pixels: [B, C, 3, H, W] in [-1, 1].
        static: what reads the tokens of the answer, made for this model; None: its modules, or on a CPU `lean`.
        show: sees what `lean` computes, which calls no modules.
    """

    def __init__(
        self,
        model: Any,
        ids: torch.Tensor,
        prefix: torch.Tensor,
        attention: torch.Tensor,
        pixels: torch.Tensor | None,
        static: StaticSteps | None = None,
        show: Show | None = None,
    ):
        self.model, self.ids, self.pixels, self.static, self.show = model, ids, pixels, static, show
        self.prefix, self.attention = prefix.to(torch.int8), attention.bool()
        self.rows, self.device, self.vocabulary = len(ids), ids.device, len(model.get_input_embeddings().weight)
        self.cache = DynamicCache()
        self._running: StaticStep | KVCache | None = None
        self._words: torch.Tensor | None = None

    def read(self, fresh: torch.Tensor, words: torch.Tensor | None, ahead: int = 0, mutual: bool = False) -> torch.Tensor:
        first = self.cache.get_seq_length() == 0
        if not first and self._running is None:
            self._running = self._begin()
        if self._running is not None:
            hidden, self._running = self._running.read(fresh, ahead, mutual)
            return self._logits(hidden[:, -1 - ahead :], words)
        # Where the prompts end: padding stands between them and what is written.
        last = self._last(self.attention) if first and fresh.shape[1] == ahead else None
        self.attention = torch.cat([self.attention, torch.ones_like(fresh, dtype=torch.bool)], 1)
        group = torch.zeros_like(fresh, dtype=torch.int8)
        if mutual:
            group[:, fresh.shape[1] - ahead :] = BLOCK
        self.prefix = torch.cat([self.prefix, group], 1)
        hidden = self.model.hidden(
            torch.cat([self.ids, fresh], 1) if first else fresh,
            self.pixels if first else None,
            self.attention,
            self.prefix,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        wanted = hidden[:, -1 - ahead :]
        if last is not None:
            end = hidden[torch.arange(self.rows, device=self.device), last]
            wanted = torch.cat([end[:, None], wanted[:, 1:]], 1)
        return self._logits(wanted, words)

    def _begin(self) -> StaticStep | KVCache | None:
        """What reads the tokens of the answer, once the prompts are read; None: the model's modules."""
        if self.static is not None:
            return self.static.begin(self.cache.layers, self.attention, self.attention.sum(1, keepdim=True))
        lean = cpu_decode_step(self.model.language)
        return None if lean is None else lean.begin(self.cache.layers, self.attention, self.show)

    def _logits(self, hidden: torch.Tensor, words: torch.Tensor | None) -> torch.Tensor:
        """The words' scores. Their rows of the head are kept until others are asked for: most places have the same."""
        if words is None:
            return self.model.logits(hidden)
        if words is not self._words:
            self._words, self._rows = words, self.model.head(words)
        return functional.linear(hidden, self._rows)

    def repeat(self, times: int) -> None:
        self.cache.batch_repeat_interleave(times)
        self.attention, self.prefix = (mask.repeat_interleave(times, 0) for mask in (self.attention, self.prefix))
        self.rows *= times

    @staticmethod
    def _last(attention: torch.Tensor) -> torch.Tensor:
        return (torch.arange(attention.shape[1], device=attention.device) * attention).argmax(1)


class HubSession:
    """Reads with any image-text-to-text model of transformers (PaliGemma, Qwen-VL, SmolVLM …).

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
            # Positions may have a leading dimension of their own kind; pictures are read and not fed again.
            if isinstance(value, torch.Tensor) and name.endswith(("_mask", "_ids")):
                self.inputs[name] = value.repeat_interleave(times, value.dim() - 2)
        self._next = self._next.repeat_interleave(times, self._next.dim() - 2)
        self.rows *= times
