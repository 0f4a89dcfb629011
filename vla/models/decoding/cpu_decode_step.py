"""The decoding step of a GPT-NeoX language model as plain tensor operations: the modules' results with a third of the operations.

For a small model on a CPU a step is many short operations, and launching them costs more than computing them. So the scales of
layer norms and attention scores are folded into adjacent weights. Attention and feed-forward part run in parallel, so a layer
needs one matrix product of its input and one of its output. Rotary embeddings are one complex product, for which the two numbers
of a rotated pair are stored side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.nn import functional
from transformers import GPTNeoXModel
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXLayer

from vla.models.decoding.kv_cache import KVCache, Show, interleave
from vla.models.decoding.session import CachedLayer


def cpu_decode_step(language: nn.Module) -> CpuDecodeStep | None:
    """Returns the decoding step of a language model, or None if it is of another kind and its modules must be used.

    With frozen weights the step is made once, and again when a weight changes. Trainable weights are read anew each time (9 ms
    for `tiny`), because a fused optimizer changes them without raising their version.
    """
    # A subclass may compute something else.
    if type(language) is not GPTNeoXModel or torch.is_autocast_enabled("cpu"):
        return None
    config = language.config
    if not config.use_parallel_residual or config.hidden_act != "gelu":
        return None
    # Pairs of numbers are viewed as complex numbers.
    if config.hidden_size // config.num_attention_heads % 2 or config.intermediate_size % 2:
        return None
    if any(w.device.type != "cpu" or w.dtype != torch.float32 or w.is_inference() for w in language.parameters()):
        return None
    weights = list(language.parameters())
    if any(w.requires_grad for w in weights):
        return CpuDecodeStep(language)
    versions = [(w.data_ptr(), w._version) for w in weights]
    cached = getattr(language, "_lean_step", None)
    if cached is None or cached[0] != versions:
        cached = versions, CpuDecodeStep(language)
        language._lean_step = cached  # type: ignore[assignment]
    return cached[1]


class CpuDecodeStep:
    """Computes the hidden states of new tokens over a `KVCache`.

    Args:
        language: a float32 model on a CPU, with parallel attention and feed-forward part and heads of even size.
    """

    @torch.no_grad()
    def __init__(self, language: GPTNeoXModel):
        config = language.config
        self.heads, self.width = config.num_attention_heads, config.hidden_size
        self.size = self.width // self.heads
        self.eps = config.layer_norm_eps
        self.norm = language.final_layer_norm
        self.words = cast(nn.Embedding, language.get_input_embeddings())
        cos, sin = language.rotary_emb(torch.zeros(1), torch.arange(config.max_position_embeddings)[None])
        self.pairs = cos.shape[-1] // 2
        # Rotations of queries, keys and values; those of values are 1.
        self.rotations = torch.ones(config.max_position_embeddings, 3, 1, self.size // 2, dtype=torch.complex64)
        self.rotations[:, :2, 0, : self.pairs] = torch.complex(*(t[0, :, None, : self.pairs] for t in (cos, sin)))
        self.layers = [self._merge(cast(GPTNeoXLayer, layer)) for layer in language.layers]

    def _merge(self, layer: GPTNeoXLayer) -> tuple[torch.Tensor, ...]:
        """Returns weight and bias of the product of a layer's input, then of the product of its output."""
        attention, forward = layer.attention, layer.mlp
        weight, bias = _after_norm(attention.query_key_value, layer.input_layernorm)
        # The model stores query, key and value head by head; here come the queries of all heads, then all keys, then all values.
        parts = [t.view(self.heads, 3, self.size, -1).transpose(0, 1) for t in (weight, bias)]
        for part in parts:
            interleave(part[:2], part[:2].clone(), self.pairs, 2)
            part[0] *= attention.scaling
        up, up_bias = _after_norm(forward.dense_h_to_4h, layer.post_attention_layernorm)
        into = torch.cat([parts[0].flatten(0, 2), up])
        into_bias = torch.cat([parts[1].flatten(), up_bias])
        out = torch.cat([attention.dense.weight, forward.dense_4h_to_h.weight], 1)
        # With few rows the product is faster in this layout.
        into, out = into.T.contiguous(), out.T.contiguous()
        return into, into_bias, out, _bias(attention.dense) + _bias(forward.dense_4h_to_h)

    def __call__(self, ids: torch.Tensor, cache: KVCache, mutual: int = 0) -> torch.Tensor:
        """Returns the last states [B, N, D] of tokens [B, N]. Attention is causal, and mutual among the last `mutual`."""
        rows, count = ids.shape
        inner = 3 * self.width
        rotations = self.rotations[cache.positions(count)]
        mask = cache.mask(count, mutual)
        hidden = self.words.weight[ids].flatten(0, 1)
        for depth, (layer, new, keys, values) in enumerate(zip(self.layers, *cache.add(count), strict=True)):
            cache.show(depth, hidden.view(rows, count, -1))
            into, into_bias, out, out_bias = layer
            both = torch.addmm(into_bias, torch.layer_norm(hidden, (self.width,), eps=self.eps), into)
            unrotated = both[:, :inner].view(rows, count, 3, self.heads, self.size // 2, 2)
            rotated = torch.view_as_real(torch.view_as_complex(unrotated) * rotations).flatten(-2).permute(2, 0, 3, 1, 4)
            new.copy_(rotated[1:])
            scores = torch.bmm(rotated[0].flatten(0, 1), keys)
            if mask is not None:
                scores.view(rows, self.heads, count, -1).add_(mask)
            attended = torch.bmm(scores.softmax(-1), values).view(rows, self.heads, count, self.size)
            parts = torch.cat([attended.transpose(1, 2).reshape(-1, self.width), functional.gelu(both[:, inner:])], 1)
            hidden = torch.addmm(hidden + out_bias, parts, out)
        last = self.norm(hidden).view(rows, count, -1)
        cache.show(len(self.layers), last)
        return last

    def begin(self, layers: Sequence[CachedLayer], attention: torch.Tensor, show: Show | None = None) -> KVCache:
        """Starts an answer after prompts.

        Args:
            layers: the KV cache of the prompts, layer by layer.
            attention: [B, L], False is padding.
            show: is called with the states that are computed.
        """
        return KVCache(self, layers, attention, show)


def _after_norm(linear: nn.Linear, norm: nn.LayerNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns weight and bias of a linear layer with the scale and shift of the preceding norm folded in."""
    return linear.weight * norm.weight, _bias(linear) + linear.weight @ norm.bias


def _bias(linear: nn.Linear) -> torch.Tensor:
    return torch.zeros(linear.out_features) if linear.bias is None else linear.bias
