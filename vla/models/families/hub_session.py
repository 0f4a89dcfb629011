"""A decoding session with any image-text-to-text model of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn import functional
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.utils.generic import ModelOutput

from vla.errors import UserError
from vla.models.decoding.session import CachedLayer, FastSteps, RunningAnswer

if TYPE_CHECKING:

    class HubModel(PreTrainedModel, GenerationMixin):
        """An image-text-to-text model of transformers: `model` is the model without its head."""

        model: PreTrainedModel

        def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **kwargs: Any) -> dict[str, Any]: ...
else:
    HubModel = PreTrainedModel


def core(model: HubModel) -> HubModel:
    """The model itself, whose layers have adapters if peft has wrapped it."""
    base = getattr(model, "get_base_model", None)
    return model if base is None else base()


def logits_of(model: HubModel, hidden: torch.Tensor, words: torch.Tensor | None = None) -> torch.Tensor:
    """Logits of last states [..., D]: of all words [..., V], or of some [U] -> [..., U]."""
    head, text = cast(nn.Module, core(model).get_output_embeddings()), model.config.get_text_config()
    if words is None or not isinstance(head, nn.Linear):
        # A head with adapters computes all of its rows.
        logits = head(hidden)
        logits = logits if words is None else logits[..., words]
    else:
        bias = None if head.bias is None else head.bias[words]
        logits = functional.linear(hidden, head.weight[words], bias)
    cap = getattr(text, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


class HubSession:
    """A decoding session with any image-text-to-text model of transformers (PaliGemma, Qwen-VL, SmolVLM …).

    The model itself prepares positions, masks and the inputs of a step. The head is computed here, for the requested words only.

    Args:
        model: an `AutoModelForImageTextToText`.
        inputs: as the model's processor makes them; prompts of unequal length are padded on the left.
        steps: decoding steps of this model for the answer's tokens; None: its modules are called.

    Raises:
        UserError: a prompt is padded on the right, so that its answer would follow padding; or the head scales its logits.
    """

    def __init__(self, model: HubModel, inputs: Mapping[str, torch.Tensor], steps: FastSteps | None = None):
        self.model, self.ids, self.steps = core(model), inputs["input_ids"], steps
        self.rows, self.device, self.vocabulary = (
            len(self.ids),
            self.ids.device,
            len(cast(nn.Embedding, model.get_input_embeddings()).weight),
        )
        self._text = model.config.get_text_config()
        if getattr(self._text, "logits_scaling", 1) != 1:
            raise UserError(f"models of type {self._text.model_type} scale their logits", "decoding", "use another model")
        self.inputs: dict[str, Any] = {name: value for name, value in inputs.items() if name != "input_ids"}
        mask = self.inputs.setdefault("attention_mask", torch.ones_like(self.ids))
        if not mask[:, -1].all():
            raise UserError("prompts are padded on the right", "decoding", 'set padding_side="left" in the processor')
        self.inputs |= {"past_key_values": DynamicCache(config=self._text), "use_cache": True}
        self.inputs["position_ids"] = model._prepare_position_ids_for_generation(self.ids, {**self.inputs, "input_ids": self.ids})
        self._first = True
        self._next = torch.empty(0)
        self._running: RunningAnswer | None = None

    def read(self, fresh: torch.Tensor, words: torch.Tensor | None, ahead: int = 0, mutual: bool = False) -> torch.Tensor:
        if self.steps is not None and not self._first:
            if self._running is None:
                layers, mask = self.inputs["past_key_values"].layers, self.inputs["attention_mask"].bool()
                self._running = self.steps.begin(cast("list[CachedLayer]", layers), mask, self._next)
            hidden, self._running = self._running.read(fresh, ahead, mutual)
            return logits_of(self.model, hidden[:, -1 - ahead :], words)
        if ahead and mutual:
            if "sliding_attention" in (getattr(self._text, "layer_types", None) or ()):
                fix = "write a causal block, or token by token"
                raise UserError("a bidirectional block needs layers that do not see a window only", self._text.model_type, fix)
            # The blanks need a mask of our own. Tokens before them are read first, with the model's causal mask.
            before = fresh[:, : fresh.shape[1] - ahead]
            if self._first or before.shape[1]:
                hidden = torch.cat([self._hidden(before, 1), self._hidden(fresh[:, before.shape[1] :], ahead, mutual=True)], 1)
                return logits_of(self.model, hidden, words)
        return logits_of(self.model, self._hidden(fresh, 1 + ahead), words)

    def _hidden(self, fresh: torch.Tensor, wanted: int, mutual: bool = False) -> torch.Tensor:
        """Reads tokens [B, N] and returns the last `wanted` hidden states [B, wanted, D]."""
        if fresh.shape[1]:
            self.ids = torch.cat([self.ids, fresh], 1)
            self.inputs = self.model._update_model_kwargs_for_generation(
                cast(ModelOutput, {}), self.inputs, num_new_tokens=fresh.shape[1]
            )
        length = None if self._first else fresh.shape[1]
        fed = self.model.prepare_inputs_for_generation(
            self.ids, next_sequence_length=length, is_first_iteration=self._first, **self.inputs
        )
        if mutual:
            fed["attention_mask"] = self.inputs["attention_mask"].bool()[:, None, None].expand(-1, 1, fresh.shape[1], -1)
        self._first = False
        if self.steps is not None:
            self._next = fed["position_ids"][..., -1:] + 1
        return self.model.model(**fed).last_hidden_state[:, -wanted:]

    def repeat(self, times: int) -> None:
        self.inputs["past_key_values"].batch_repeat_interleave(times)
        self.ids = self.ids.repeat_interleave(times, 0)
        for name, value in self.inputs.items():
            # Position ids may have a leading dimension; images have been read and are not fed again.
            if isinstance(value, torch.Tensor) and name.endswith(("_mask", "_ids")):
                self.inputs[name] = value.repeat_interleave(times, value.dim() - 2)
        self._next = self._next.repeat_interleave(times, self._next.dim() - 2)
        self.rows *= times
