"""OpenVLA: one or two vision transformers of timm, a projector and a causal language model, with the published names."""

from __future__ import annotations

import re
from typing import Any, cast

import timm
import torch
from einops import rearrange
from timm.layers.layer_scale import LayerScale
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Cache,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from vla.errors import UserError
from vla.models.openvla.config import OpenVLAConfig


class Scale(nn.Module):
    """The factor of a residual branch, `gamma` in timm and `scale_factor` in published checkpoints."""

    def __init__(self, width: int):
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale_factor


def vision_transformer(name: str, size: int, activation: str | None, **args: Any) -> VisionTransformer:
    """A vision transformer of timm up to its second-to-last block, whose patches are the features.

    What follows that block has no effect and is left out: the last block, the norm and the pooling.
    """
    network = timm.create_model(name, pretrained=False, num_classes=0, img_size=size, act_layer=activation, **args)
    if not isinstance(network, VisionTransformer):
        raise UserError(f"{name} is no vision transformer", "config.json, timm_model_ids", "give OpenVLA's networks")
    network.blocks = network.blocks[:-1]
    network.norm, network.attn_pool = nn.Identity(), None
    for block in network.blocks:
        for branch in ("ls1", "ls2"):
            if isinstance(scale := getattr(block, branch), LayerScale):
                setattr(block, branch, Scale(scale.gamma.shape[0]))
    return network


class VisionBackbone(nn.Module):
    """The vision networks: pixels [N, 3 or 6, S, S] -> features of the patches [N, P, D], of two networks side by side."""

    def __init__(self, config: OpenVLAConfig):
        super().__init__()
        rows = zip(config.timm_model_ids, config.image_sizes, config.timm_override_act_layers, config.timm_args, strict=True)
        networks = [vision_transformer(name, size, activation, **args) for name, size, activation, args in rows]
        self.featurizer = networks[0]
        if len(networks) > 1:
            self.fused_featurizer = networks[1]
        self.width = sum(network.embed_dim for network in networks)

    @property
    def networks(self) -> list[VisionTransformer]:
        return [self.featurizer, *([self.fused_featurizer] if hasattr(self, "fused_featurizer") else [])]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        parts = rearrange(pixels, "n (network rgb) h w -> network n rgb h w", rgb=3)
        features = []
        for network, part in zip(self.networks, parts, strict=True):
            # The output of the last block that is left, without class and register tokens.
            features += network.forward_intermediates(part, 1, output_fmt="NLC", intermediates_only=True)
        return torch.cat(features, -1)


class Projector(nn.Module):
    """Patch features [N, P, D] -> embeddings [N, P, H]: two layers after one vision network, three after two."""

    def __init__(self, width: int, hidden: int, fused: bool):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width if fused else hidden)
        self.fc2 = nn.Linear(self.fc1.out_features, hidden)
        if fused:
            self.fc3 = nn.Linear(hidden, hidden)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        out = self.fc2(nn.functional.gelu(self.fc1(features)))
        return self.fc3(nn.functional.gelu(out)) if hasattr(self, "fc3") else out


class OpenVLA(PreTrainedModel, GenerationMixin):
    """OpenVLA. The patches of one image take the place of its placeholders, which follow `<s>`; attention is causal."""

    config_class = OpenVLAConfig
    main_input_name = "input_ids"
    base_model_prefix = ""
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules = ["LlamaDecoderLayer"]

    def __init__(self, config: OpenVLAConfig):
        super().__init__(config)
        self.vision_backbone = VisionBackbone(config)
        self.projector = Projector(self.vision_backbone.width, config.text_config.hidden_size, config.use_fused_vision_backbone)
        self.language_model = cast(PreTrainedModel, AutoModelForCausalLM.from_config(config.text_config))
        for module in self.vision_backbone.modules():
            # timm has initialised them.
            module._is_hf_initialized = True  # type: ignore[assignment]
        networks = self.vision_backbone.named_children()
        blocks = [(name, len(cast(VisionTransformer, network).blocks)) for name, network in networks]
        unused = [rf"blocks\.{count}\.|norm\.|attn_pool\.|fc_norm\.|head\." for _, count in blocks]
        self._keys_to_ignore_on_load_unexpected = [
            rf"vision_backbone\.{re.escape(name)}\.({tail})" for (name, _), tail in zip(blocks, unused, strict=True)
        ]
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return cast(nn.Embedding, self.language_model.get_input_embeddings())

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return cast(nn.Module, self.language_model.get_output_embeddings())

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def get_decoder(self) -> PreTrainedModel:
        return self.language_model.get_decoder()

    def model(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = False,
    ) -> BaseModelOutputWithPast:
        """The model without its head: returns last hidden states [B, L, H].

        Args:
            input_ids: [B, L], with one placeholder per patch.
            pixel_values: [B, 3 or 6, S, S], one image per sequence; None once it is in the cache.
            attention_mask: [B, past + L], 0 is padding; or an additive mask [B, 1, L, past + L].
            position_ids, past_key_values, use_cache: as in transformers.

        Raises:
            UserError: there are more or fewer placeholders than patches.
        """
        embeds = self.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            patches = self.projector(self.vision_backbone(pixel_values.to(self.dtype))).to(embeds.dtype)
            placeholders = (input_ids == self.config.image_token_id).nonzero(as_tuple=True)
            if len(placeholders[0]) != patches.shape[0] * patches.shape[1]:
                what = f"{len(placeholders[0])} placeholders for {patches.shape[0]} images of {patches.shape[1]} patches"
                raise UserError(what, "model input", "give one image per sequence")
            embeds = embeds.index_put(placeholders, rearrange(patches, "n p d -> (n p) d"))
        return self.get_decoder()(
            inputs_embeds=embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )

    def forward(
        self, input_ids: torch.Tensor, labels: torch.Tensor | None = None, logits_to_keep: int = 0, **inputs: Any
    ) -> CausalLMOutputWithPast:
        """Next-token logits [B, L, V], of the last `logits_to_keep` positions (0: all), and the mean loss if labels are given.

        Args:
            labels: [B, L] aligned with `input_ids`; -100 is ignored.
            inputs: of `model`.
        """
        inputs = {name: value for name, value in inputs.items() if name not in ("return_dict", "output_attentions")}
        out = self.model(input_ids, **inputs)
        hidden = cast(torch.Tensor, out.last_hidden_state)
        logits = self.get_output_embeddings()(hidden[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=out.past_key_values)


AutoConfig.register(OpenVLAConfig.model_type, OpenVLAConfig, exist_ok=True)
AutoModelForImageTextToText.register(OpenVLAConfig, OpenVLA, exist_ok=True)
