"""Which layers' states are the representation, and how they are taken from a model that computes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch

from vla.errors import UserError

Choice = Literal["last-two", "middle", "mix", "input"]
"""`last-two` is the paper's; `middle` one layer half way up; `mix` a quarter, half, three quarters and the last, to be weighted
by the pooler; `input` what goes into the first layer: of pictures, what the image encoder says of them."""


def chosen_layers(choice: str, depth: int) -> tuple[int, ...]:
    """The layers of a model that is so deep: 0 is the first one's input, k the output of the k-th, `depth` the normalised last.

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


class _Enough(Exception):
    """The deepest wanted layer has been computed."""


class Capture:
    """Keeps what a language model computes at some of its layers while it runs, call after call.

    Args:
        decoder: the language model, with its blocks in `layers`.
        wanted: as `chosen_layers` gives them.
    """

    def __init__(self, decoder: Any, wanted: tuple[int, ...]):
        self.decoder, self.wanted, self.deepest = decoder, wanted, max(wanted)
        self.states: dict[int, list[torch.Tensor]] = {layer: [] for layer in wanted}
        self._stop = False

    def __enter__(self) -> Capture:
        blocks = self.decoder.layers
        with ExitStack() as hooks:
            for layer in self.states:
                if layer == 0:
                    hook = blocks[0].register_forward_pre_hook(self._before, with_kwargs=True)
                else:
                    # Above the last block a norm follows, which belongs to the last state.
                    module = self.decoder if layer == len(blocks) else blocks[layer - 1]
                    hook = module.register_forward_hook(lambda _, __, out, layer=layer: self.keep(layer, _state(out)))
                hooks.callback(hook.remove)
            self._hooks = hooks.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    @contextmanager
    def until_deepest(self) -> Iterator[None]:
        """The model's next call ends where the deepest wanted layer is done; what is above is not computed."""
        self._stop = True
        try:
            yield
        except _Enough:
            pass
        finally:
            self._stop = False

    def keep(self, layer: int, state: torch.Tensor) -> None:
        """Takes the states [B, N, D] of one call at a layer, if it is wanted; hooks call it, and what calls no modules."""
        if layer in self.states:
            self.states[layer].append(state)
            if self._stop and layer == self.deepest:
                raise _Enough

    def _before(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.keep(0, _state(args or kwargs["hidden_states"]))


def _state(out: Any) -> torch.Tensor:
    state = getattr(out, "last_hidden_state", None)
    if state is not None:
        return state
    return out if isinstance(out, torch.Tensor) else out[0]
