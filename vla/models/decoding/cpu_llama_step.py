"""The decoding step of a small Llama or Qwen2 language model on a CPU as plain tensor operations.

For a small model on a CPU, launching a step's many short operations costs as much as computing them. So the scales of norms and
attention scores are folded into adjacent weights, products of the same input are one, and the KV cache grows in place. This
copies the weights, so the model must be small and frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaModel, Qwen2Model

from vla.models.decoding.kv_cache import KVCache
from vla.models.decoding.session import CachedLayer

MOST = 500_000_000
"""Maximum number of a language model's weights, which are held twice."""


class CpuLlamaStep:
    """Computes the hidden states of new tokens over a `KVCache`.

    Args:
        language: a model that `fits`; its weights must not change.
    """

    pairs = 0

    @torch.no_grad()
    def __init__(self, language: nn.Module):
        model: Any = language
        config = model.config
        self.words, self.rotary, self.norm = model.embed_tokens, model.rotary_emb, model.norm
        self.eps, self.width, self.inner = config.rms_norm_eps, config.hidden_size, config.intermediate_size
        self.heads, self.shared = config.num_attention_heads, config.num_key_value_heads
        self.layers = [self._merge(layer) for layer in model.layers]

    @staticmethod
    def fits(language: nn.Module) -> bool:
        """Whether the step computes what this model does: small, frozen, float32, on a CPU, without adapters, gated by SiLU, and
        every token attends to all earlier ones."""
        # A subclass may compute something else.
        if type(language) not in (LlamaModel, Qwen2Model) or torch.is_autocast_enabled("cpu"):
            return False
        config: Any = language.config
        if config.hidden_act != "silu" or {*(getattr(config, "layer_types", None) or ["full_attention"])} != {"full_attention"}:
            return False
        weights = list(language.parameters())
        if sum(w.numel() for w in weights) > MOST or any(w.requires_grad for w in weights):
            return False
        if any(w.device.type != "cpu" or w.dtype != torch.float32 for w in weights):
            return False
        if config.rope_parameters.get("partial_rotary_factor", 1) != 1:
            return False
        return all(_products_fit(layer) for layer in language.layers)  # type: ignore[union-attr]

    def _merge(self, layer: Any) -> tuple[torch.Tensor, ...]:
        """Returns weight and bias of queries, keys and values; then the weights of the attention's output, of gate and up, and of
        down, all transposed: with few rows their products are faster in this layout."""
        attention, forward = layer.self_attn, layer.mlp
        asked, *others = attention.q_proj, attention.k_proj, attention.v_proj
        biases = [torch.zeros(p.out_features) if p.bias is None else p.bias for p in (asked, *others)]
        into = torch.cat([asked.weight * attention.scaling, *(p.weight for p in others)]) * layer.input_layernorm.weight
        bias = torch.cat([biases[0] * attention.scaling, *biases[1:]])
        up = torch.cat([forward.gate_proj.weight, forward.up_proj.weight]) * layer.post_attention_layernorm.weight
        weights = (w.T.contiguous() for w in (into, attention.o_proj.weight, up, forward.down_proj.weight))
        first, *rest = weights
        return first, bias, *rest

    def begin(self, layers: Sequence[CachedLayer], mask: torch.Tensor, positions: torch.Tensor) -> KVCache:
        """Starts an answer after prompts; as `FastSteps.begin`. These models count positions by the mask."""
        return KVCache(self, layers, mask)

    def __call__(self, ids: torch.Tensor, cache: KVCache, mutual: int = 0) -> torch.Tensor:
        """Returns the last states [B, N, D] of tokens [B, N]. Attention is causal, and mutual among the last `mutual`."""
        rows, count = ids.shape
        words = self.words(ids)
        cos, sin = (part[:, :, None] for part in self.rotary(words, cache.positions(count)))
        size = cos.shape[-1]
        # Numbers k and k + size / 2 of a head are a rotated pair.
        sin = torch.cat([-sin[..., : size // 2], sin[..., size // 2 :]], -1)
        mask, rotated_heads = cache.mask(count, mutual), self.heads + self.shared
        hidden = words.flatten(0, 1)
        for layer, new, keys, values in zip(self.layers, *cache.add(count), strict=True):
            into, bias, out, up, down = layer
            heads = torch.addmm(bias, self._normalised(hidden), into).view(rows, count, -1, size)
            unrotated = heads[:, :, :rotated_heads]
            rotated = (unrotated * cos).addcmul_(unrotated.roll(size // 2, -1), sin).transpose(1, 2)
            new[0] = rotated[:, self.heads :]
            new[1] = heads[:, :, rotated_heads:].transpose(1, 2)
            # Query heads that share keys are rows of one product.
            scores = torch.bmm(rotated[:, : self.heads].reshape(rows * self.shared, -1, size), keys)
            if mask is not None:
                scores.view(rows, self.shared, -1, count, scores.shape[-1]).add_(mask[:, :, None])
            attended = torch.bmm(scores.softmax(-1), values).view(rows, self.heads, count, size)
            hidden = torch.addmm(hidden, attended.transpose(1, 2).reshape(rows * count, -1), out)
            both = torch.mm(self._normalised(hidden), up)
            hidden = torch.addmm(hidden, functional.silu(both[:, : self.inner]).mul_(both[:, self.inner :]), down)
        return self.norm(hidden).view(rows, count, -1)

    def _normalised(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.eps)


def _products_fit(layer: Any) -> bool:
    """Whether a layer's products are plain ones, and only those of queries, keys and values have a bias."""
    attention, forward = layer.self_attn, layer.mlp
    others = [attention.o_proj, forward.gate_proj, forward.up_proj, forward.down_proj]
    if any(type(product) is not nn.Linear for product in (attention.q_proj, attention.k_proj, attention.v_proj, *others)):
        return False
    return all(product.bias is None for product in others)
