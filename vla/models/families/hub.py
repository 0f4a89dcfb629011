"""The family of all other image-text-to-text models of transformers: for decoding and representations, not yet for training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.generic import ModelOutput

from vla.errors import UserError
from vla.models.decoding.cpu_decode_step import Show
from vla.models.decoding.session import CachedLayer
from vla.models.decoding.static import StaticStep, StaticSteps
from vla.models.families.base import Images, OptionalImages, check_length
from vla.models.inputs import ModelInputs

if TYPE_CHECKING:

    class HubModel(PreTrainedModel, GenerationMixin):
        """An image-text-to-text model of transformers: `model` is the model without its head."""

        model: PreTrainedModel

        def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **kwargs: Any) -> dict[str, Any]: ...


class HubProcessor(Protocol):
    """A processor of transformers for images and text."""

    image_token: str

    def __call__(self, *, text: list[str], images: list[list[np.ndarray]], **options: object) -> Mapping[str, torch.Tensor]: ...

    def apply_chat_template(self, conversation: list[dict[str, Any]], *, add_generation_prompt: bool) -> str: ...


class HubFamily:
    """The `ModelFamily` of an image-text-to-text model of transformers. Prompts are padded on the left.

    Args:
        processor: the model's processor.
        config: the model's configuration.
        image_tokens: number of image tokens of one observation; 0: the processor's `image_seq_length`.
        chat: whether to put the prompt into the chat template, as the user's turn.
    """

    new_weights = ()

    def __init__(self, processor: HubProcessor, config: PreTrainedConfig, image_tokens: int = 0, chat: bool = False):
        self.processor, self.chat = processor, chat
        self.tokenizer = cast(PreTrainedTokenizerBase, getattr(processor, "tokenizer", processor))
        self.image_id, self._image_tokens = config.image_token_id, image_tokens

    @staticmethod
    def history_settings(model_type: str, history: int) -> NoReturn:
        raise _untrainable(f"a model of type {model_type}")

    @property
    def image_tokens(self) -> int:
        count = self._image_tokens or getattr(self.processor, "image_seq_length", 0)
        if not count:
            raise UserError("the processor does not give the number of tokens of an image", "representation", "set image_tokens")
        return count

    def image_ids(self, count: int) -> NoReturn:
        raise _untrainable(f"a model with a {type(self.processor).__name__}")

    def images(self, samples: Sequence[OptionalImages]) -> NoReturn:
        raise _untrainable(f"a model with a {type(self.processor).__name__}")

    def prompts(self, images: Sequence[Images], texts: Sequence[str], length: int) -> ModelInputs:
        wrapped = [self._wrap(text, len(shown)) for text, shown in zip(texts, images, strict=True)]
        options = {"padding": "max_length", "max_length": length, "padding_side": "left", "return_tensors": "pt"}
        encoded = dict(self.processor(text=wrapped, images=[list(shown) for shown in images], **options))
        # Some processors add labels.
        encoded.pop("labels", None)
        ids, attention = encoded.pop("input_ids"), encoded.pop("attention_mask")
        check_length(ids.shape[1], length, texts[0])
        tokens = (ids == self.image_id).sum(1)
        if (tokens != self.image_tokens).any():
            raise UserError(
                f"a prompt has {int(tokens[0])} image tokens", "representation", f"set image_tokens: {int(tokens[0])}"
            )
        return ModelInputs(ids, attention, encoded)

    def _wrap(self, text: str, images: int) -> str:
        """Adds the image placeholders, and the chat template if set, to a prompt."""
        if not self.chat:
            return self.processor.image_token * images + text
        content = [*[{"type": "image"}] * images, {"type": "text", "text": text}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    def score(self, model: HubModel, inputs: ModelInputs, positions: torch.Tensor) -> NoReturn:
        raise _untrainable(f"a {type(model).__name__}")

    def session(
        self, model: HubModel, inputs: ModelInputs, static: StaticSteps | None = None, show: Show | None = None
    ) -> HubSession:
        inputs = inputs.to(model.device)
        return HubSession(model, {"input_ids": inputs.ids, "attention_mask": inputs.attention, **inputs.images}, static)

    def decoder(self, model: HubModel) -> PreTrainedModel:
        return model.get_decoder()

    def end_ids(self, model: HubModel) -> list[int]:
        end = model.generation_config.eos_token_id
        return [] if end is None else list(end) if isinstance(end, list | tuple) else [end]


def _untrainable(what: str) -> UserError:
    return UserError(f"{what} cannot be trained yet", "model.vlm", "use `tiny`, an export, or a small model of your own")


def _head(model: HubModel) -> nn.Linear:
    return cast(nn.Linear, model.get_output_embeddings())


class HubSession:
    """A decoding session with any image-text-to-text model of transformers (PaliGemma, Qwen-VL, SmolVLM …).

    The model itself prepares positions, masks and the inputs of a step. The head is computed here, for the requested words only.

    Args:
        model: an `AutoModelForImageTextToText`.
        inputs: as the model's processor makes them; prompts of unequal length are padded on the left.
        static: static decoding steps of this model for the answer's tokens; None: its modules are called.

    Raises:
        UserError: a prompt is padded on the right, so that its answer would follow padding; or the head scales its logits.
    """

    def __init__(self, model: HubModel, inputs: Mapping[str, torch.Tensor], static: StaticSteps | None = None):
        self.model, self.ids, self.static = model, inputs["input_ids"], static
        self.rows, self.device, self.vocabulary = len(self.ids), self.ids.device, len(_head(model).weight)
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
        self._running: StaticStep | None = None

    def read(self, fresh: torch.Tensor, words: torch.Tensor | None, ahead: int = 0, mutual: bool = False) -> torch.Tensor:
        if self.static is not None and not self._first:
            if self._running is None:
                layers, mask = self.inputs["past_key_values"].layers, self.inputs["attention_mask"].bool()
                self._running = self.static.begin(cast("list[CachedLayer]", layers), mask, self._next)
            hidden, self._running = self._running.read(fresh, ahead, mutual)
            return self._logits(hidden[:, -1 - ahead :], words)
        if ahead and mutual:
            if "sliding_attention" in (getattr(self._text, "layer_types", None) or ()):
                fix = "write a causal block, or token by token"
                raise UserError("a bidirectional block needs layers that do not see a window only", self._text.model_type, fix)
            # The blanks need a mask of our own. Tokens before them are read first, with the model's causal mask.
            before = fresh[:, : fresh.shape[1] - ahead]
            if self._first or before.shape[1]:
                hidden = torch.cat([self._hidden(before, 1), self._hidden(fresh[:, before.shape[1] :], ahead, mutual=True)], 1)
                return self._logits(hidden, words)
        return self._logits(self._hidden(fresh, 1 + ahead), words)

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
        if self.static is not None:
            self._next = fed["position_ids"][..., -1:] + 1
        return self.model.model(**fed).last_hidden_state[:, -wanted:]

    def _logits(self, hidden: torch.Tensor, words: torch.Tensor | None) -> torch.Tensor:
        head = _head(self.model)
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
            # Position ids may have a leading dimension; images have been read and are not fed again.
            if isinstance(value, torch.Tensor) and name.endswith(("_mask", "_ids")):
                self.inputs[name] = value.repeat_interleave(times, value.dim() - 2)
        self._next = self._next.repeat_interleave(times, self._next.dim() - 2)
        self.rows *= times
