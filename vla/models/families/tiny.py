"""The family of our own small model, `TinyVLM`: image placeholders, then text, padded on the right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch.nn import functional
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from vla.errors import UserError
from vla.models.decoding.cpu_decode_step import cpu_decode_step
from vla.models.decoding.kv_cache import Show
from vla.models.decoding.session import CachedLayer, FastSteps, RunningAnswer
from vla.models.families.base import Images, OptionalImages, PromptFrame, Size, check_length
from vla.models.inputs import BLOCK, ModelInputs
from vla.models.tiny.model import TinyVLM
from vla.models.tiny.processor import TinyVLMProcessor


class TinyFamily:
    """The `ModelFamily` of `TinyVLM`. Every camera has its own tokens; those of a missing image are masked.

    Args:
        processor: the model's processor, which makes the other arguments of a family superfluous."""

    image_text, frame = "<image>", PromptFrame()
    new_weights = ("vision.age",)
    """Embeddings of the images' ages, which are new if the model was saved with history 1."""

    def __init__(
        self, processor: TinyVLMProcessor, config: PreTrainedConfig | None = None, image_tokens: int = 0, chat: bool = False
    ):
        self.processor = processor
        self.tokenizer: PreTrainedTokenizerBase = processor.tokenizer
        self.image_id = processor.image_token_id
        self.words = processor.words if processor.reads else None
        self.text_encoder = getattr(config, "text_encoder", "")

    @classmethod
    def history_settings(cls, model_type: str, history: int) -> dict[str, int]:
        return {"history": history}

    @property
    def image_tokens(self) -> int:
        return sum(map(len, self.processor.image_ids()))

    def image_ids(self, sizes: Sequence[Size | None]) -> list[list[int]]:
        ids = self.processor.image_ids()
        if len(sizes) != len(ids):
            raise UserError(
                f"the model takes {len(ids)} images, the contract gives {len(sizes)}",
                "model.vlm",
                "scratch, or a model described there, takes as many cameras as the data have",
            )
        return ids

    def images(self, samples: Sequence[OptionalImages]) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.processor.pixels(samples)}

    def prompts(self, images: Sequence[Images], texts: Sequence[str], length: int) -> ModelInputs:
        placeholders, count = self.processor.image_ids(), len(images[0])
        if count > len(placeholders):
            raise UserError(f"{count} images", "representation", f"the model takes at most {len(placeholders)}")
        # Tokens of images that are not given are left out.
        shown = sum(map(len, placeholders[:count]))
        ids = torch.full((len(images), length - self.image_tokens + shown), cast(int, self.tokenizer.pad_token_id))
        attention = torch.zeros(ids.shape, dtype=torch.bool)
        ids[:, :shown], attention[:, :shown] = self.image_id, True
        for row, text in enumerate(texts):
            words = self.processor.words(text)
            check_length(self.image_tokens + len(words), length, text)
            ids[row, shown : shown + len(words)] = torch.tensor(words, dtype=torch.long)
            attention[row, shown : shown + len(words)] = True
        return ModelInputs(ids, attention, {"pixel_values": self.processor.pixels(images, count)})

    def score(self, model: TinyVLM, inputs: ModelInputs, positions: torch.Tensor) -> torch.Tensor:
        branch = inputs.branch
        if branch is not None and branch.max() <= 1:
            branch = None
        return model(
            inputs.ids,
            attention_mask=inputs.attention,
            prefix_mask=inputs.group,
            branch_ids=branch,
            logits_positions=positions,
            **inputs.images,
        ).logits

    def session(
        self, model: TinyVLM, inputs: ModelInputs, steps: FastSteps | None = None, show: Show | None = None
    ) -> TinySession:
        inputs = inputs.to(model.device)
        group = inputs.attention if inputs.group is None else inputs.group
        return TinySession(model, inputs.ids, group, inputs.attention, inputs.images["pixel_values"], steps, show)

    def decoder(self, model: TinyVLM) -> PreTrainedModel:
        return model.language

    def end_ids(self, model: TinyVLM) -> list[int]:
        return [cast(int, self.tokenizer.eos_token_id)]


class TinySession:
    """A decoding session with a `TinyVLM`.

    Args:
        model: the model.
        ids: [B, L] prompts, padded on the right.
        prefix: [B, L], 1 where a token belongs to the bidirectional prefix.
        attention: [B, L], False is padding.
        pixels: [B, C, 3, H, W] in [-1, 1].
        steps: decoding steps of this model for the answer's tokens; None: `cpu_decode_step`, or the model's modules.
        show: is called with the states that `cpu_decode_step` computes, as it calls no modules.
    """

    def __init__(
        self,
        model: TinyVLM,
        ids: torch.Tensor,
        prefix: torch.Tensor,
        attention: torch.Tensor,
        pixels: torch.Tensor | None,
        steps: FastSteps | None = None,
        show: Show | None = None,
    ):
        self.model, self.ids, self.pixels, self.steps, self.show = model, ids, pixels, steps, show
        self.prefix, self.attention = prefix.to(torch.int8), attention.bool()
        self.rows, self.device, self.vocabulary = len(ids), ids.device, len(model.get_input_embeddings().weight)
        self.cache = DynamicCache()
        self._running: RunningAnswer | None = None
        self._words: torch.Tensor | None = None

    def read(self, fresh: torch.Tensor, words: torch.Tensor | None, ahead: int = 0, mutual: bool = False) -> torch.Tensor:
        first = self.cache.get_seq_length() == 0
        if not first and self._running is None:
            self._running = self._begin()
        if self._running is not None:
            hidden, self._running = self._running.read(fresh, ahead, mutual)
            return self._logits(hidden[:, -1 - ahead :], words)
        # The last token of each prompt: padding separates it from the blanks.
        last = self._last(self.attention) if first and fresh.shape[1] == ahead else None
        self.attention = torch.cat([self.attention, torch.ones_like(fresh, dtype=torch.bool)], 1)
        group = torch.zeros_like(fresh, dtype=torch.int8)
        if mutual:
            group[:, fresh.shape[1] - ahead :] = BLOCK
        self.prefix = torch.cat([self.prefix, group], 1)
        out = self.model.hidden(
            torch.cat([self.ids, fresh], 1) if first else fresh,
            self.pixels if first else None,
            self.attention,
            self.prefix,
            past_key_values=self.cache,
            use_cache=True,
        )
        hidden = cast(torch.Tensor, out.last_hidden_state)
        wanted = hidden[:, -1 - ahead :]
        if last is not None:
            end = hidden[torch.arange(self.rows, device=self.device), last]
            wanted = torch.cat([end[:, None], wanted[:, 1:]], 1)
        return self._logits(wanted, words)

    def _begin(self) -> RunningAnswer | None:
        """Returns what reads the answer's tokens, after the prompts have been read; None: the model's modules."""
        layers = cast("list[CachedLayer]", self.cache.layers)
        if self.steps is not None:
            return self.steps.begin(layers, self.attention, self.attention.sum(1, keepdim=True))
        step = cpu_decode_step(self.model.language)
        return None if step is None else step.begin(layers, self.attention, self.show)

    def _logits(self, hidden: torch.Tensor, words: torch.Tensor | None) -> torch.Tensor:
        """Returns the words' logits. Rows of the head are kept until other words come: most positions have the same."""
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
        """Returns the index [B] of each row's last token."""
        return (torch.arange(attention.shape[1], device=attention.device) * attention).argmax(1)
