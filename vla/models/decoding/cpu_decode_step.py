"""The decoding step of a GPT-NeoX language model, written out: what its modules compute, with a third of the operations.

For a small model on a CPU a step is many short operations, and starting them costs more than computing them. So the scales of
norms and scores go into the weights beside them, a layer's three products of its input become one and the two of its output
another (its attention and its feed-forward part run side by side), and queries, keys and values turn in one complex product:
the two numbers of a pair that turns stand side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers import GPTNeoXModel

ROOM = 64
"""Tokens by which the kept keys and values grow."""
Show = Callable[[int, torch.Tensor], None]
"""Is given every layer's input [B, N, D] with its place, from 0, and the last, normalised states."""


def cpu_decode_step(language: Any) -> CpuDecodeStep | None:
    """The written-out step of a model; None where its modules have to do it.

    Of frozen weights it is made once, and again when one changes. Weights that may be trained it reads anew each time (9 ms for
    `tiny`): a fused optimizer changes them without counting that.
    """
    if type(language) is not GPTNeoXModel or torch.is_autocast_enabled("cpu"):
        return None
    config = language.config
    if not config.use_parallel_residual or config.hidden_act != "gelu":
        return None
    # Pairs of numbers are read as complex ones.
    if config.hidden_size // config.num_attention_heads % 2 or config.intermediate_size % 2:
        return None
    if any(w.device.type != "cpu" or w.dtype != torch.float32 or w.is_inference() for w in language.parameters()):
        return None
    weights = list(language.parameters())
    if any(w.requires_grad for w in weights):
        return CpuDecodeStep(language)
    versions = [(w.data_ptr(), w._version) for w in weights]
    known = getattr(language, "_lean_step", None)
    if known is None or known[0] != versions:
        known = versions, CpuDecodeStep(language)
        language._lean_step = known  # type: ignore[assignment]
    return known[1]


class CpuDecodeStep:
    """Reads a few tokens after those whose keys and values are kept.

    Args:
        language: float32 on a CPU, attention and feed-forward part side by side, heads of even size.
    """

    @torch.no_grad()
    def __init__(self, language: GPTNeoXModel):
        config = language.config
        self.heads, self.width = config.num_attention_heads, config.hidden_size
        self.size = self.width // self.heads
        self.eps = config.layer_norm_eps
        self.norm = language.final_layer_norm
        self.words: Any = language.get_input_embeddings()
        cos, sin = language.rotary_emb(torch.zeros(1), torch.arange(config.max_position_embeddings)[None])
        self.pairs = cos.shape[-1] // 2
        # Of queries, keys and values, which stay as they are.
        self.turns = torch.ones(config.max_position_embeddings, 3, 1, self.size // 2, dtype=torch.complex64)
        self.turns[:, :2, 0, : self.pairs] = torch.complex(*(t[0, :, None, : self.pairs] for t in (cos, sin)))
        self.layers = [self._merge(layer) for layer in language.layers]

    def _merge(self, layer: Any) -> tuple[torch.Tensor, ...]:
        """Weights and biases of the product of a layer's input, and of that of its output."""
        attention, forward = layer.attention, layer.mlp
        weight, bias = _after_norm(attention.query_key_value, layer.input_layernorm)
        # Head by head its query, key and value, which here are those of all heads one after the other.
        parts = [t.view(self.heads, 3, self.size, -1).transpose(0, 1) for t in (weight, bias)]
        for part in parts:
            _side_by_side(part[:2], part[:2].clone(), self.pairs, 2)
            part[0] *= attention.scaling
        up, up_bias = _after_norm(forward.dense_h_to_4h, layer.post_attention_layernorm)
        into = torch.cat([parts[0].flatten(0, 2), up])
        into_bias = torch.cat([parts[1].flatten(), up_bias])
        out = torch.cat([attention.dense.weight, forward.dense_4h_to_h.weight], 1)
        # Few rows are multiplied faster so.
        into, out = into.T.contiguous(), out.T.contiguous()
        return into, into_bias, out, _bias(attention.dense) + _bias(forward.dense_4h_to_h)

    def __call__(self, ids: torch.Tensor, kept: KVCache, mutual: int = 0) -> torch.Tensor:
        """The last states [B, N, D] of tokens [B, N], each of which sees those before it, and the last `mutual` one another."""
        rows, count = ids.shape
        inner = 3 * self.width
        turns = self.turns[kept.positions(count)]
        mask = kept.mask(count, mutual)
        hidden = self.words.weight[ids].flatten(0, 1)
        for place, (layer, new, keys, values) in enumerate(zip(self.layers, *kept.add(count), strict=True)):
            kept.show(place, hidden.view(rows, count, -1))
            into, into_bias, out, out_bias = layer
            both = torch.addmm(into_bias, torch.layer_norm(hidden, (self.width,), eps=self.eps), into)
            plain = both[:, :inner].view(rows, count, 3, self.heads, self.size // 2, 2)
            turned = torch.view_as_real(torch.view_as_complex(plain) * turns).flatten(-2).permute(2, 0, 3, 1, 4)
            new.copy_(turned[1:])
            scores = torch.bmm(turned[0].flatten(0, 1), keys)
            if mask is not None:
                scores.view(rows, self.heads, count, -1).add_(mask)
            seen = torch.bmm(scores.softmax(-1), values).view(rows, self.heads, count, self.size)
            parts = torch.cat([seen.transpose(1, 2).reshape(-1, self.width), functional.gelu(both[:, inner:])], 1)
            hidden = torch.addmm(hidden + out_bias, parts, out)
        last = self.norm(hidden).view(rows, count, -1)
        kept.show(len(self.layers), last)
        return last

    def begin(self, layers: Sequence[Any], attention: torch.Tensor, show: Show | None = None) -> KVCache:
        """Goes on after prompts.

        Args:
            layers: of the model, each with `keys` and `values` [B, H, L, D].
            attention: [B, L] False is padding.
            show: sees what is computed.
        """
        return KVCache(self, layers, attention, show)


class KVCache:
    """Keys and values of what was read, with room for what comes.

    Args:
        step: reads what comes.
        layers, attention, show: as for `CpuDecodeStep.begin`.
    """

    def __init__(self, step: CpuDecodeStep, layers: Sequence[Any], attention: torch.Tensor, show: Show | None = None):
        self.step, self.show = step, show or (lambda place, states: None)
        rows, heads, self.length, size = layers[0].keys.shape
        self.table = torch.empty(len(layers), 2, rows, heads, self.length + ROOM, size)
        for (keys, values), layer in zip(self.table[..., : self.length, :], layers, strict=True):
            _side_by_side(keys, layer.keys, step.pairs, 3)
            values.copy_(layer.values)
        self.ends = attention.sum(1, keepdim=True)
        self.padded = not bool(attention.all())
        self.blind = torch.zeros(rows, 1, 1, self.length).masked_fill_(~attention[:, None, None], -torch.inf)

    def read(self, fresh: torch.Tensor, ahead: int = 0, mutual: bool = False) -> tuple[torch.Tensor, KVCache]:
        """The last states [B, N, D] of tokens [B, N], and what reads the next ones; as `StaticStep.read`."""
        return self.step(fresh, self, ahead if mutual else 0), self

    def positions(self, count: int) -> torch.Tensor:
        """Where the next tokens stand in each row's text, [B, N]."""
        return self.ends + torch.arange(count)

    def mask(self, count: int, mutual: int) -> torch.Tensor | None:
        """What is added to the scores of the next tokens, [B, 1, N, kept + N]; None: nothing."""
        if count == 1 and not self.padded:
            return None
        mask = functional.pad(self.blind, (0, self.length + count - self.blind.shape[-1]))
        if count > 1:
            later = torch.full((count, count), -torch.inf).triu(1)
            later[count - mutual :, count - mutual :] = 0
            mask = mask + functional.pad(later, (self.length, 0))
        return mask

    def add(self, count: int) -> tuple[tuple[torch.Tensor, ...], ...]:
        """Counts the next tokens in. Per layer: where their keys and values go, then all keys (transposed) and all values."""
        start, end = self.length, self.length + count
        if end > self.table.shape[4]:
            self.table = functional.pad(self.table, (0, 0, 0, end - self.table.shape[4] + ROOM))
        self.length, self.ends = end, self.ends + count
        keys, values = self.table[..., :end, :].flatten(2, 3).unbind(1)
        return self.table[..., start:end, :].unbind(), keys.transpose(2, 3).unbind(), values.unbind()


def _after_norm(linear: torch.nn.Linear, norm: torch.nn.LayerNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a linear layer with the scale and shift of the norm before it in them."""
    return linear.weight * norm.weight, _bias(linear) + linear.weight @ norm.bias


def _side_by_side(place: torch.Tensor, numbers: torch.Tensor, pairs: int, dim: int) -> None:
    """Copies heads' numbers, which stand along `dim`: those that turn together, `pairs` apart, become neighbours."""
    sizes = [2 * pairs, numbers.shape[dim] - 2 * pairs]
    (turning, resting), (halves, rest) = place.split(sizes, dim), numbers.split(sizes, dim)
    turning.unflatten(dim, (pairs, 2)).copy_(halves.unflatten(dim, (2, pairs)).transpose(dim, dim + 1))
    resting.copy_(rest)


def _bias(linear: torch.nn.Linear) -> torch.Tensor:
    return torch.zeros(linear.out_features) if linear.bias is None else linear.bias
