"""Reading an answer's tokens over keys and values that keep their place and size, so that a GPU can record a step and replay it.

With few rows a step's time goes into starting its kernels rather than into reading the weights. A CUDA graph starts them at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers import Cache
from transformers.cache_utils import StaticLayer

from vla.models.tiny.attention import NAME, additive

ROOM = 128
"""Keys and values have room for a multiple of this many tokens, so that few sizes occur."""


class StaticSteps:
    """What reads tokens after a prompt, for one model, made once for each number of rows and room. Keep it as long as the model.

    Args:
        decoder: the language model, causal over all layers.
        compiled: fuse the step's operations with `torch.compile` first; the first step of each size then takes long.
        graphs: record each step as a CUDA graph; None: where the model is on a GPU.
    """

    def __init__(self, decoder: Any, compiled: bool = False, graphs: bool | None = None):
        self.decoder = decoder
        self.compiled = compiled
        self.graphs = decoder.device.type == "cuda" if graphs is None else graphs
        self._made: dict[tuple[int, int], StaticStep] = {}

    @staticmethod
    def fits(decoder: Any) -> bool:
        """Whether every layer of the language model sees all that stands before a token."""
        kinds = getattr(decoder.config, "layer_types", None) or ["full_attention"]
        return set(kinds) == {"full_attention"} and decoder.config._attn_implementation in ("eager", "sdpa", NAME)

    def begin(self, kept: Sequence[Any], seen: torch.Tensor, positions: torch.Tensor) -> StaticStep:
        """Goes on after prompts.

        Args:
            kept: per layer, an object with `keys` and `values` [B, H, L, D].
            seen: [B, L] bool, False is padding.
            positions: [..., B, 1] of the next token.
        """
        rows, length = seen.shape
        size = rows, ROOM * math.ceil((length + 1) / ROOM)
        if size not in self._made:
            self._made[size] = StaticStep(self, *size, kept, positions)
        step = self._made[size]
        step.begin(kept, seen, positions)
        return step


class StaticStep:
    """One number of rows and one room; as `StaticSteps.begin` makes it.

    Attributes:
        recorded: the graphs, by number of tokens and of blanks.
    """

    def __init__(self, owner: StaticSteps, rows: int, room: int, kept: Sequence[Any], positions: torch.Tensor):
        self.owner, self.rows, self.room = owner, rows, room
        device = positions.device
        self.layers = [_Fixed(layer.keys, layer.values, room) for layer in kept]
        self.cache = Cache(layers=list(self.layers))
        self.seen = torch.ones(rows, room, dtype=torch.bool, device=device)
        self.positions = positions.clone()
        self.start = torch.zeros((), dtype=torch.long, device=device)
        self.columns = torch.arange(room, device=device)
        self.fed: dict[int, torch.Tensor] = {}
        self.recorded: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._run = torch.compile(self._step, dynamic=False) if owner.compiled else self._step

    def begin(self, kept: Sequence[Any], seen: torch.Tensor, positions: torch.Tensor) -> None:
        self.length = seen.shape[1]
        for fixed, layer in zip(self.layers, kept, strict=True):
            fixed.keys[:, :, : self.length] = layer.keys[:, :, : self.length]
            fixed.values[:, :, : self.length] = layer.values[:, :, : self.length]
        self.seen[:, : self.length] = seen
        self.seen[:, self.length :] = True
        self.positions.copy_(positions)

    def read(self, fresh: torch.Tensor, ahead: int = 0, mutual: bool = False) -> tuple[torch.Tensor, StaticStep]:
        """The last states [B, N, D] of tokens [B, N], and what reads the next ones: another one where the room is not enough.

        Args:
            fresh: tokens.
            ahead, mutual: as for `vla.models.decoding.session.DecodingSession.read`.
        """
        count = fresh.shape[1]
        if self.length + count > self.room:
            return self._moved(count).read(fresh, ahead, mutual)
        blanks = ahead if mutual else 0
        self.fed.setdefault(count, torch.zeros_like(fresh)).copy_(fresh)
        self.start.fill_(self.length)
        hidden = self._replay(count, blanks) if self.owner.graphs else self._run(count, blanks)
        self.length += count
        self.positions += count
        return hidden, self

    def _moved(self, count: int) -> StaticStep:
        """A step with more room, at the same place."""
        seen = functional.pad(self.seen[:, : self.length], (0, count), value=True)
        step = self.owner.begin([_Part(layer, count) for layer in self.layers], seen, self.positions)
        step.length -= count
        return step

    def _step(self, count: int, blanks: int) -> torch.Tensor:
        places = self.start + torch.arange(count, device=self.start.device)
        # Blanks that see one another see as far as the last of them.
        until = torch.cat([places[: count - blanks], (self.start + count - 1).expand(blanks)])
        seen = self.seen[:, None, None] & (self.columns <= until[:, None])
        for layer in self.layers:
            layer.places = places
        out = self.owner.decoder(
            input_ids=self.fed[count],
            attention_mask=additive(seen, self.layers[0].keys.dtype),
            position_ids=self.positions + torch.arange(count, device=self.start.device),
            past_key_values=self.cache,
            use_cache=True,
        )
        return out.last_hidden_state

    def _replay(self, count: int, blanks: int) -> torch.Tensor:
        if (count, blanks) not in self.recorded:
            # Libraries choose their kernels and take their memory in the first runs. What these write is written again.
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
    """A layer's keys and values, written at `places`, the same for all layers."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, room: int):
        super().__init__(room)
        self.keys, self.values = (t.new_zeros(*t.shape[:2], room, t.shape[3]) for t in (keys, values))
        self.is_initialized = True
        self.places = torch.empty(0)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys.index_copy_(2, self.places, key_states)
        self.values.index_copy_(2, self.places, value_states)
        return self.keys, self.values


class _Part:
    """A layer's keys and values with room for a few more behind them."""

    def __init__(self, layer: Any, more: int):
        self.keys, self.values = (functional.pad(t, (0, 0, 0, more)) for t in (layer.keys, layer.values))
