"""The KV cache of a decoding step on a CPU: it grows in place, so that a token copies no other token's keys and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch.nn import functional

from vla.models.decoding.session import CachedLayer

ROOM = 64
"""The KV cache grows by this many tokens at a time."""
Show = Callable[[int, torch.Tensor], None]
"""A function that is called with (k, input [B, N, D] of layer k) for every layer, and (depth, normalised last states)."""


class CpuStep(Protocol):
    """Computes the last states [B, N, D] of tokens [B, N]; attention is causal, and mutual among the last `mutual`.

    Attributes:
        pairs: number of pairs of a head's numbers that the step keeps side by side (`interleave`).
    """

    pairs: int

    def __call__(self, ids: torch.Tensor, cache: KVCache, mutual: int = 0) -> torch.Tensor: ...


class KVCache:
    """Keys and values of the tokens read so far, with room for more.

    Args:
        step: computes the next tokens.
        layers: the KV cache of the prompts, layer by layer.
        attention: [B, L], False is padding.
        show: is called with the states that are computed.
    """

    def __init__(self, step: CpuStep, layers: Sequence[CachedLayer], attention: torch.Tensor, show: Show | None = None):
        self.step, self.show = step, show or (lambda depth, states: None)
        rows, heads, self.length, size = layers[0].keys.shape
        self.table = torch.empty(len(layers), 2, rows, heads, self.length + ROOM, size)
        for (keys, values), layer in zip(self.table[..., : self.length, :], layers, strict=True):
            interleave(keys, layer.keys, step.pairs, 3)
            values.copy_(layer.values)
        self.ends = attention.sum(1, keepdim=True)
        self.padded = not bool(attention.all())
        self.bias = torch.zeros(rows, 1, 1, self.length).masked_fill_(~attention[:, None, None], -torch.inf)

    def read(self, fresh: torch.Tensor, ahead: int = 0, mutual: bool = False) -> tuple[torch.Tensor, KVCache]:
        """Returns the last states [B, N, D] of tokens [B, N], and the cache that reads the next ones; as `StaticStep.read`."""
        return self.step(fresh, self, ahead if mutual else 0), self

    def positions(self, count: int) -> torch.Tensor:
        """Returns the position ids [B, N] of the next tokens."""
        return self.ends + torch.arange(count)

    def mask(self, count: int, mutual: int) -> torch.Tensor | None:
        """Returns what is added to the scores of the next tokens, [B, 1, N, length + N]; None: nothing."""
        if count == 1 and not self.padded:
            return None
        mask = functional.pad(self.bias, (0, self.length + count - self.bias.shape[-1]))
        if count > 1:
            later = torch.full((count, count), -torch.inf).triu(1)
            later[count - mutual :, count - mutual :] = 0
            mask = mask + functional.pad(later, (self.length, 0))
        return mask

    def add(self, count: int) -> tuple[tuple[torch.Tensor, ...], ...]:
        """Makes room for new tokens. Returns views per layer: new keys and values, all keys (transposed), all values."""
        start, end = self.length, self.length + count
        if end > self.table.shape[4]:
            self.table = functional.pad(self.table, (0, 0, 0, end - self.table.shape[4] + ROOM))
        self.length, self.ends = end, self.ends + count
        keys, values = self.table[..., :end, :].flatten(2, 3).unbind(1)
        return self.table[..., start:end, :].unbind(), keys.transpose(2, 3).unbind(), values.unbind()


def interleave(target: torch.Tensor, source: torch.Tensor, pairs: int, dim: int) -> None:
    """Copies the numbers of heads along `dim`, so that the two of a rotated pair, `pairs` apart in `source`, become adjacent."""
    sizes = [2 * pairs, source.shape[dim] - 2 * pairs]
    (rotated, unrotated), (halves, rest) = target.split(sizes, dim), source.split(sizes, dim)
    rotated.unflatten(dim, (pairs, 2)).copy_(halves.unflatten(dim, (2, pairs)).transpose(dim, dim + 1))
    unrotated.copy_(rest)
