"""The small vision-language model: a timm network, a projector and a causal language model in one `PreTrainedModel`."""

from __future__ import annotations

from typing import cast

import torch
from einops import rearrange
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, Cache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from vla.errors import UserError
from vla.language.encoders import StateCache
from vla.models.attention import NAME, additive, positions, visible
from vla.models.inputs import PREFIX
from vla.models.int8 import to_int8
from vla.models.logprobs import scored, token_logprobs
from vla.models.tiny.config import TinyVLMConfig
from vla.models.tiny.reading import FIRST, Reading, encoder_of, texts_of
from vla.models.tiny.vision import Vision


class TinyVLM(PreTrainedModel, GenerationMixin):
    """A vision-language model that reads image tokens in place of `<image>` placeholders.

    Image tokens attend to one another. A prompt attends to the images and to all of itself, an answer to everything before it.
    Several prompts with their answers may branch off the same images. The output layer is tied to the embeddings; logits are
    computed only at the requested positions.
    """

    config_class = TinyVLMConfig
    main_input_name = "input_ids"
    base_model_prefix = ""
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True

    def __init__(self, config: TinyVLMConfig):
        super().__init__(config)
        self.vision = Vision(config)
        # Keep the fan-in initialisation of timm and torch: with 0.02 positions would outweigh image content.
        for module in self.vision.modules():
            # Age embeddings may be missing from a checkpoint, and are then initialised by transformers.
            if module is not self.vision.age:
                module._is_hf_initialized = True  # type: ignore[assignment]
        self.language: PreTrainedModel = AutoModel.from_config(config.text_config, attn_implementation=NAME)
        self.text_encoder, self.reading = encoder_of(config), None
        if self.text_encoder is not None:
            self.reading = Reading(self.text_encoder.config.hidden_size, config.text_config.hidden_size)
        self._states = StateCache()
        if config.int8:
            to_int8(self.language, empty=True)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return cast(nn.Embedding, self.language.get_input_embeddings())

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language.set_input_embeddings(value)

    def get_decoder(self) -> PreTrainedModel:
        return self.language

    def train(self, mode: bool = True) -> TinyVLM:
        """Switches between training and evaluation. The text encoder stays frozen, and without dropout."""
        super().train(mode)
        if self.text_encoder is not None:
            # Loading makes new parameters, which would learn.
            self.text_encoder.eval().requires_grad_(False)
        return self

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        """The embeddings [B, L, D] of words; those that the text encoder reads are its projected states."""
        if self.text_encoder is None or self.reading is None:
            return self.get_input_embeddings()(ids)
        read = ids >= FIRST
        embeds = self.get_input_embeddings()(ids.masked_fill(read, 0))
        texts = texts_of(ids[read].tolist(), self.config.first_id)
        if not texts:
            return embeds
        encoder = cast(PreTrainedModel, self.text_encoder)
        states = torch.cat([self._states(encoder, text) for text in texts])
        return embeds.index_put(read.nonzero(as_tuple=True), self.reading(states.to(embeds.dtype)).to(embeds.dtype))

    def hidden(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        prefix_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = False,
        branch_ids: torch.Tensor | None = None,
    ) -> BaseModelOutputWithPast:
        """Returns the language model's output, with last hidden states [B, L, D]; arguments as in `forward`."""
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        if attention_mask is None:
            attention_mask = input_ids.new_ones(len(input_ids), past + input_ids.shape[1])
        attention = attention_mask.bool()
        if prefix_mask is not None:
            group = prefix_mask.to(torch.int8) * attention
        else:  # a prompt alone is all prefix; tokens after a cached prompt are not
            group = attention.to(torch.int8) * (PREFIX if past == 0 else 0)
        if self.config.prefix == "causal":
            group = group.masked_fill(group == PREFIX, 0)
        if position_ids is None:  # padding is not counted, so a prompt's positions do not depend on the rest of the batch
            position_ids = positions(attention, branch_ids)[:, past:]
        if branch_ids is None and past == 0:
            # The trunk ends with the last image token.
            branch_ids = 1 - (input_ids == self.config.image_token_id).long().flip(1).cummax(1).values.flip(1)
        embeds = self._embed(input_ids)
        if pixel_values is not None:
            embeds = self._insert(embeds, input_ids, self.vision(pixel_values))
        device = input_ids.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else embeds.dtype
        embeds = embeds.to(dtype)  # else the residual stream stays float32 under autocast, and every block casts it twice
        return self.language(
            inputs_embeds=embeds,
            attention_mask=additive(visible(attention, group, branch_ids, past), dtype),
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )

    def _insert(self, embeds: torch.Tensor, ids: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Replaces the embeddings [B, L, D] of placeholders by image tokens [B, N, D]."""
        placeholders = (ids == self.config.image_token_id).nonzero(as_tuple=True)
        if len(placeholders[0]) != image.shape[0] * image.shape[1]:
            raise UserError(
                f"{len(placeholders[0])} <image> tokens for {image.shape[0]} samples with {image.shape[1]} image tokens each",
                "model input",
                "put as many placeholders into the prompt as the processor's image_tokens give",
            )
        return embeds.index_put(placeholders, rearrange(image, "b n d -> (b n) d").to(embeds.dtype))

    def head(self, words: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the rows of the output layer [V, D], or only those of some words [U]."""
        weight = self.get_input_embeddings().weight
        return weight if words is None else weight[words]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Returns the logits of all words: [..., D] -> [..., V]."""
        return nn.functional.linear(hidden, self.head())

    def forward(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        prefix_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_positions: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = False,
        branch_ids: torch.Tensor | None = None,
        **_,
    ) -> CausalLMOutputWithPast:
        """Computes next-token logits, and the loss if labels are given.

        Args:
            input_ids: [B, L], with one `<image>` per image token.
            pixel_values: [B, T * C, 3, H, W] in [-1, 1], oldest first, cameras in the contract's order; None once the images
                are in the cache.
            attention_mask: [B, past + L], 0 is padding; None: there is no padding.
            prefix_mask: [B, past + L], 1 where a token belongs to the bidirectional prefix, 2 where to a block of blanks that
                attend to one another. None: the prefix is what comes before the first label, or all tokens if there are no
                labels; tokens after a cached prompt are not part of it.
            labels: [B, L] aligned with `input_ids`; -100 is ignored.
            logits_positions: [B, L] bool, positions whose next-token logits are computed. None: those that labels need, or all.
            past_key_values, use_cache, position_ids: as in transformers.
            branch_ids: [B, L], 0 for the images, then 1, 2, … for each prompt with its answer, which attend to the images and to
                themselves; requires a `prefix_mask` and no cache. None: everything after the images is one branch.

        Returns:
            `logits` [N, V] of the N requested positions, row by row ([B, L, V] if all); `loss` is the mean over the labels.
        """
        if labels is not None:
            logits_positions = scored(labels)
            prefix_mask = (labels != -100).cumsum(1) == 0 if prefix_mask is None else prefix_mask
        out = self.hidden(
            input_ids, pixel_values, attention_mask, prefix_mask, position_ids, past_key_values, use_cache, branch_ids
        )
        hidden = cast(torch.Tensor, out.last_hidden_state)
        logits = self.logits(hidden if logits_positions is None else hidden[logits_positions])
        loss = None if labels is None else -token_logprobs(logits, labels[:, 1:][scored(labels)[:, :-1]]).mean()
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=out.past_key_values)

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, pixel_values=None, attention_mask=None, **kwargs):
        """Returns the inputs of a step of `GenerationMixin.generate`; images and prefix go with the prompt only."""
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        return {
            "input_ids": input_ids[:, past:],
            "pixel_values": pixel_values if past == 0 else None,
            "prefix_mask": kwargs.get("prefix_mask") if past == 0 else None,
            "attention_mask": attention_mask,
            "past_key_values": past_key_values,
            "use_cache": True,
        }


AutoConfig.register(TinyVLMConfig.model_type, TinyVLMConfig, exist_ok=True)
AutoModelForImageTextToText.register(TinyVLMConfig, TinyVLM, exist_ok=True)
