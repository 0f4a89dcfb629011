"""The choice of layers whose states form a representation, and the hooks that capture them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal, cast

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from vla.errors import UserError

Choice = Literal["last-two", "middle", "mix", "input"]
"""`last-two`: the paper's choice. `middle`: one layer half way up. `mix`: the layers at a quarter, half and three quarters of the
depth and the last, weighted by the pooler. `input`: the input of the first layer, i.e. image tokens as the image encoder gives
them."""

Output = torch.Tensor | tuple[torch.Tensor, ...] | BaseModelOutputWithPast
"""What the modules of a language model return."""


def chosen_layers(choice: str, depth: int) -> tuple[int, ...]:
    """Returns the layers of a choice: 0 is the first layer's input, k the output of the k-th, `depth` the normalised last states.

    Raises:
        UserError: an unknown choice.
    """
    known = {
        "last-two": (max(depth - 1, 1), depth),
        "middle": ((depth + 1) // 2,),
        "mix": tuple(max(1, round(depth * quarter / 4)) for quarter in (1, 2, 3, 4)),
        "input": (0,),
    }
    if choice not in known:
        raise UserError(f"unknown layers {choice!r}", "representation", f"one of {', '.join(known)}")
    return known[choice]


class _Stop(Exception):
    """Ends a forward pass after the deepest wanted layer."""


class Capture:
    """Captures the states of a language model at some layers while it runs, call by call.

    Args:
        decoder: the language model.
        wanted: layers, as `chosen_layers` gives them.

    Attributes:
        states: layer -> states [B, N, D] of each call.
    """

    def __init__(self, decoder: nn.Module, wanted: tuple[int, ...]):
        self.decoder, self.wanted, self.deepest = decoder, wanted, max(wanted)
        self.states: dict[int, list[torch.Tensor]] = {layer: [] for layer in wanted}
        self._stop = False

    def __enter__(self) -> Capture:
        layers = blocks(self.decoder)
        with ExitStack() as hooks:
            for layer in self.states:
                if layer == 0:
                    hook = layers[0].register_forward_pre_hook(self._before, with_kwargs=True)
                else:
                    # The last state is the decoder's output, after the norm above the last block.
                    module = self.decoder if layer == len(layers) else layers[layer - 1]
                    hook = module.register_forward_hook(self._after(layer))
                hooks.callback(hook.remove)
            self._hooks = hooks.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    @contextmanager
    def until_deepest(self) -> Iterator[None]:
        """Ends the next call of the model after the deepest wanted layer; layers above are not computed."""
        self._stop = True
        try:
            yield
        except _Stop:
            pass
        finally:
            self._stop = False

    def keep(self, layer: int, state: torch.Tensor) -> None:
        """Stores the states [B, N, D] of a layer in one call, if wanted. Called by hooks, and by `CpuDecodeStep`."""
        if layer in self.states:
            self.states[layer].append(state)
            if self._stop and layer == self.deepest:
                raise _Stop

    def _after(self, layer: int) -> Callable[[nn.Module, tuple[torch.Tensor, ...], Output], None]:
        return lambda _, __, out: self.keep(layer, _state(out))

    def _before(self, _: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]) -> None:
        self.keep(0, _state(args or kwargs["hidden_states"]))


def blocks(decoder: nn.Module) -> nn.ModuleList:
    """Returns the blocks of a language model."""
    return cast(nn.ModuleList, decoder.layers)


def _state(out: Output) -> torch.Tensor:
    """Returns the hidden states among a module's outputs."""
    state = getattr(out, "last_hidden_state", None)
    if state is not None:
        return state
    return out if isinstance(out, torch.Tensor) else out[0]
