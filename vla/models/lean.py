"""The decoding step of a GPT-NeoX language model, written out: what its modules compute, with a third of the operations.

For a small model on a CPU a step is many short operations, and starting them costs more than computing them. So norms' scales go
into the weights that follow, a layer's three products of its input become one and the two of its output another (its attention
and its feed-forward part run side by side), and rotating queries and keys is a product with weights that were rotated beforehand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from transformers import GPTNeoXModel

ROOM = 32
"""Tokens by which the kept keys and values grow."""


def lean_step(language: Any) -> LeanStep | None:
    """The written-out step of a model; None where its modules have to do it.

    Of frozen weights it is made once, and again when one changes. Weights that may be trained it reads anew each time (9 ms for
    `tiny`): a fused optimizer changes them without counting that.
    """
    weights = list(language.parameters())
    small = all(w.device.type == "cpu" and w.dtype == torch.float32 and not w.is_inference() for w in weights)
    if type(language) is not GPTNeoXModel or not small or torch.is_autocast_enabled("cpu"):
        return None
    if not language.config.use_parallel_residual or language.config.hidden_act != "gelu":
        return None
    if any(w.requires_grad for w in weights):
        return LeanStep(language)
    versions = [(w.data_ptr(), w._version) for w in weights]
    known = getattr(language, "_lean_step", None)
    if known is None or known[0] != versions:
        known = versions, LeanStep(language)
        language._lean_step = known  # type: ignore[assignment]
    return known[1]


class LeanStep:
    """Reads a few tokens after those whose keys and values are kept.

    Args:
        language: float32 on a CPU, attention and feed-forward part side by side.
    """

    @torch.no_grad()
    def __init__(self, language: GPTNeoXModel):
        config = language.config
        self.heads, self.width = config.num_attention_heads, config.hidden_size
        self.size = self.width // self.heads
        self.eps = config.layer_norm_eps
        self.layers = [self._merge(layer) for layer in language.layers]
        self.norm = language.final_layer_norm
        self.words = language.get_input_embeddings()
        places = torch.arange(config.max_position_embeddings)[None]
        cos, sin = language.rotary_emb(torch.zeros(1), places)
        # What does not rotate is multiplied by one, and nothing is added to it.
        self.cos, self.sin = torch.ones(places.shape[1], self.size), torch.zeros(places.shape[1], self.size)
        self.cos[:, : cos.shape[-1]], self.sin[:, : sin.shape[-1]] = cos[0], sin[0]

    def _merge(self, layer: Any) -> tuple[torch.Tensor, ...]:
        """Weights and biases of the product of a layer's input, and of that of its output."""
        attention, forward = layer.attention, layer.mlp
        weight, bias = _after_norm(attention.query_key_value, layer.input_layernorm)
        # Head by head: its query, key and value.
        weight, bias = weight.view(self.heads, 3, self.size, -1), bias.view(self.heads, 3, self.size)
        rotated = [_rotate(t[:, :2], attention.rotary_ndims) for t in (weight, bias[..., None])]
        up, up_bias = _after_norm(forward.dense_h_to_4h, layer.post_attention_layernorm)
        into = torch.cat([weight[:, :2].flatten(0, 2), rotated[0].flatten(0, 2), weight[:, 2].flatten(0, 1), up])
        into_bias = torch.cat([bias[:, :2].flatten(), rotated[1].flatten(), bias[:, 2].flatten(), up_bias])
        out = torch.cat([attention.dense.weight, forward.dense_4h_to_h.weight], 1)
        out_bias = _bias(attention.dense) + _bias(forward.dense_4h_to_h)
        return into.contiguous(), into_bias, out.contiguous(), out_bias

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, kept: Kept) -> torch.Tensor:
        """The last states [B, N, D] of tokens [B, N] at positions [B, N]; mask [B, 1, N, kept + N] is added to the scores."""
        rows, count = ids.shape
        cos, sin = (table[positions][:, :, None, None] for table in (self.cos, self.sin))
        split = (2 * self.width, 2 * self.width, self.width, self.layers[0][0].shape[0] - 5 * self.width)
        hidden = self.words(ids)
        for number, (into, into_bias, out, out_bias) in enumerate(self.layers):
            normed = functional.layer_norm(hidden, (self.width,), eps=self.eps)
            plain, rotated, value, up = functional.linear(normed, into, into_bias).split(split, -1)
            shape = (rows, count, self.heads, 2, self.size)
            both = torch.addcmul(plain.view(shape) * cos, rotated.view(shape), sin)
            keys, values = kept.add(number, both[..., 1, :], value.view(rows, count, self.heads, self.size))
            seen = functional.scaled_dot_product_attention(both[..., 0, :].transpose(1, 2), keys, values, mask)
            parts = torch.cat([seen.transpose(1, 2).flatten(2), functional.gelu(up)], -1)
            hidden = hidden + functional.linear(parts, out, out_bias)
        kept.length += count
        return self.norm(hidden)


class Kept:
    """Keys and values of what was read, with room for what comes.

    Args:
        layers: per layer, keys and values [B, H, L, D].
    """

    def __init__(self, layers: list[tuple[torch.Tensor, torch.Tensor]]):
        self.length = layers[0][0].shape[2]
        self.layers = layers

    def add(self, number: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes a layer's new ones [B, N, H, D]; all that it has then."""
        end = self.length + key.shape[1]
        if end > self.layers[number][0].shape[2]:
            room = (0, 0, 0, end - self.layers[number][0].shape[2] + ROOM)
            self.layers[number] = tuple(functional.pad(t, room) for t in self.layers[number])  # type: ignore[assignment]
        found = []
        for table, new in zip(self.layers[number], (key, value), strict=True):
            table[:, :, self.length : end] = new.transpose(1, 2)
            found.append(table[:, :, :end])
        return found[0], found[1]


def _after_norm(linear: torch.nn.Linear, norm: torch.nn.LayerNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a linear layer with the scale and shift of the norm before it in them."""
    return linear.weight * norm.weight, _bias(linear) + linear.weight @ norm.bias


def _bias(linear: torch.nn.Linear) -> torch.Tensor:
    return torch.zeros(linear.out_features) if linear.bias is None else linear.bias


def _rotate(rows: torch.Tensor, dims: int) -> torch.Tensor:
    """Rows [H, 2, D, …] as rotary positions swap their halves: of the first `dims`, minus the second half, then the first."""
    first, second, rest = rows.split([dims // 2, dims - dims // 2, rows.shape[2] - dims], 2)
    return torch.cat([-second, first, torch.zeros_like(rest)], 2)
