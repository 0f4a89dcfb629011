"""Decoding over a KV cache of fixed address and size, so that a step can be recorded as a CUDA graph and replayed.

With few rows a step takes longer to launch its kernels than to read the weights. A CUDA graph launches all of them at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import StaticLayer

from vla.models.attention import NAME, additive
from vla.models.decoding.session import CachedLayer

ROOM = 128
"""The size of a KV cache is a multiple of this many tokens, so that few sizes occur."""


class StaticSteps:
    """The decoding steps of one model, one for each number of rows and cache size. Keep it as long as the model.

    Args:
        decoder: the language model, with causal attention in all layers.
        compiled: whether to fuse a step's operations with `torch.compile`; the first step of each size then takes long.
        graphs: whether to record each step as a CUDA graph; None: if the model is on a GPU.
    """

    def __init__(self, decoder: PreTrainedModel, compiled: bool = False, graphs: bool | None = None):
        self.decoder = decoder
        self.compiled = compiled
        self.graphs = decoder.device.type == "cuda" if graphs is None else graphs
        self._steps: dict[tuple[int, int], StaticStep] = {}

    @staticmethod
    def fits(decoder: PreTrainedModel) -> bool:
        """Whether every layer of the language model attends to all earlier tokens, by a known attention function."""
        kinds = getattr(decoder.config, "layer_types", None) or ["full_attention"]
        return set(kinds) == {"full_attention"} and decoder.config._attn_implementation in ("eager", "sdpa", NAME)

    def begin(self, layers: Sequence[CachedLayer], mask: torch.Tensor, positions: torch.Tensor) -> StaticStep:
        """Starts an answer after prompts.

        Args:
            layers: the KV cache of the prompts, layer by layer.
            mask: [B, L] bool, False is padding.
            positions: [..., B, 1] position ids of the next token.
        """
        rows, length = mask.shape
        size = rows, ROOM * math.ceil((length + 1) / ROOM)
        if size not in self._steps:
            self._steps[size] = StaticStep(self, *size, layers, positions)
        step = self._steps[size]
        step.begin(layers, mask, positions)
        return step


class StaticStep:
    """The decoding step for one number of rows and one cache size; made by `StaticSteps.begin`.

    Attributes:
        recorded: the CUDA graphs and their outputs, by number of tokens and of blanks.
    """

    def __init__(self, owner: StaticSteps, rows: int, room: int, layers: Sequence[CachedLayer], positions: torch.Tensor):
        self.owner, self.rows, self.room = owner, rows, room
        device = positions.device
        self.layers = [_Fixed(layer.keys, layer.values, room) for layer in layers]
        self.cache = Cache(layers=list(self.layers))
        self.mask = torch.ones(rows, room, dtype=torch.bool, device=device)
        self.positions = positions.clone()
        self.start = torch.zeros((), dtype=torch.long, device=device)
        self.columns = torch.arange(room, device=device)
        self.fed: dict[int, torch.Tensor] = {}
        self.recorded: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._run = torch.compile(self._step, dynamic=False) if owner.compiled else self._step

    def begin(self, layers: Sequence[CachedLayer], mask: torch.Tensor, positions: torch.Tensor) -> None:
        """Copies the prompts' KV cache; arguments as for `StaticSteps.begin`."""
        self.length = mask.shape[1]
        for fixed, layer in zip(self.layers, layers, strict=True):
            fixed.keys[:, :, : self.length] = layer.keys[:, :, : self.length]
            fixed.values[:, :, : self.length] = layer.values[:, :, : self.length]
        self.mask[:, : self.length] = mask
        self.mask[:, self.length :] = True
        self.positions.copy_(positions)

    def read(self, fresh: torch.Tensor, ahead: int = 0, mutual: bool = False) -> tuple[torch.Tensor, StaticStep]:
        """Returns the last states [B, N, D] of tokens [B, N], and the step for the next ones: a larger one if this is full.

        Args:
            fresh: the tokens.
            ahead, mutual: as for `vla.models.decoding.session.DecodingSession.read`.
        """
        count = fresh.shape[1]
        if self.length + count > self.room:
            return self._grown(count).read(fresh, ahead, mutual)
        blanks = ahead if mutual else 0
        self.fed.setdefault(count, torch.zeros_like(fresh)).copy_(fresh)
        self.start.fill_(self.length)
        hidden = self._replay(count, blanks) if self.owner.graphs else self._run(count, blanks)
        self.length += count
        self.positions += count
        return hidden, self

    def _grown(self, count: int) -> StaticStep:
        """Returns a step with room for `count` more tokens, in the same state."""
        mask = functional.pad(self.mask[:, : self.length], (0, count), value=True)
        step = self.owner.begin([_Padded(layer, count) for layer in self.layers], mask, self.positions)
        step.length -= count
        return step

    def _step(self, count: int, blanks: int) -> torch.Tensor:
        columns = self.start + torch.arange(count, device=self.start.device)
        # Mutual blanks attend up to the last of them.
        until = torch.cat([columns[: count - blanks], (self.start + count - 1).expand(blanks)])
        mask = self.mask[:, None, None] & (self.columns <= until[:, None])
        for layer in self.layers:
            layer.columns = columns
        out = self.owner.decoder(
            input_ids=self.fed[count],
            attention_mask=additive(mask, self.layers[0].keys.dtype),
            position_ids=self.positions + torch.arange(count, device=self.start.device),
            past_key_values=self.cache,
            use_cache=True,
        )
        return out.last_hidden_state

    def _replay(self, count: int, blanks: int) -> torch.Tensor:
        if (count, blanks) not in self.recorded:
            # Libraries choose kernels and allocate memory in the first runs. What these runs write to the cache is overwritten.
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self._run(count, blanks)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                hidden = self._run(count, blanks)
            self.recorded[count, blanks] = graph, hidden
        graph, hidden = self.recorded[count, blanks]
        graph.replay()
        return hidden


class _Fixed(StaticLayer):
    """A layer's keys and values in tensors of fixed size. `columns` are the indices of the tokens that are written next."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, room: int):
        super().__init__(room)
        self.keys, self.values = (t.new_zeros(*t.shape[:2], room, t.shape[3]) for t in (keys, values))
        self.is_initialized = True
        self.columns = torch.empty(0)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys.index_copy_(2, self.columns, key_states)
        self.values.index_copy_(2, self.columns, value_states)
        return self.keys, self.values


class _Padded:
    """A layer's keys and values, padded by `more` tokens."""

    def __init__(self, layer: CachedLayer, more: int):
        self.keys, self.values = (functional.pad(t, (0, 0, 0, more)) for t in (layer.keys, layer.values))
