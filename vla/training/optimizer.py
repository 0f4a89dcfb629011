"""Which parameters learn, how fast and with which optimizer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import nn

from vla.errors import UserError

OptimizerName = Literal["adamw", "adamw8bit"]
FLOOR = 0.02
"""The share of the learning rate at which the cosine ends."""


def freeze(model: nn.Module, patterns: Iterable[str]) -> None:
    """Freezes the parameters whose names match one of the patterns (regular expressions that match from the name's start), or
    their first N rows, where a pattern ends with [:N].

    Raises:
        UserError: a pattern matches no parameter, or nothing is left to learn.
    """
    for pattern in patterns:
        rows = re.search(r"\[:(\d+)\]$", pattern)
        for _, parameter in _matching(model, pattern[: rows.start()] if rows else pattern, "model.freeze"):
            if rows:
                _freeze_rows(parameter, int(rows[1]))
            else:
                parameter.requires_grad = False
    if not any(p.requires_grad for p in model.parameters()):
        raise UserError("every parameter is frozen", "model.freeze", "leave something to learn")


def _freeze_rows(parameter: nn.Parameter, count: int) -> None:
    """Keeps the first rows of a matrix: their gradient is 0, and so are Adam's moments. It must not decay."""
    if not parameter.requires_grad:
        return
    if getattr(parameter, "_frozen_rows", 0):
        return  # a second call, after adapters were added

    def without(gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        gradient[:count] = 0
        return gradient

    parameter._frozen_rows = count  # type: ignore[attr-defined]
    parameter.register_hook(without)


def parameter_groups(model: nn.Module, rate: float, decay: float, rates: dict[str, float]) -> list[dict[str, Any]]:
    """The learning parameters in groups for an optimizer. Only matrices decay, not vectors and input embeddings.

    Args:
        rate: learning rate.
        decay: weight decay.
        rates: pattern of names -> factor of the learning rate; the first that matches holds, else 1.
    """
    factors = {}
    for pattern, factor in reversed(rates.items()):
        factors |= {name: factor for name, _ in _matching(model, pattern, "model.rates")}
    table = model.get_input_embeddings().weight  # type: ignore[operator]
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim < 2 or parameter is table
            factor = factors.get(name.removeprefix("base_model.model."), 1.0)
            groups.setdefault((factor, 0.0 if plain else decay), []).append(parameter)
    return [{"params": params, "lr": rate * factor, "weight_decay": d} for (factor, d), params in groups.items()]


def check_optimizer(name: OptimizerName) -> None:
    """Raises UserError if the optimizer is not installed."""
    if name == "adamw8bit":
        _adamw8bit()


def _adamw8bit() -> Callable[..., torch.optim.Optimizer]:
    try:
        from bitsandbytes.optim import AdamW8bit  # type: ignore[import-not-found]
    except ImportError as error:
        raise UserError("bitsandbytes is not installed", "model.optimizer", "install vla[lowbit]") from error
    return AdamW8bit


def make_optimizer(name: OptimizerName, groups: list[dict[str, Any]], fused: bool) -> torch.optim.Optimizer:
    """AdamW, with its moments in 8 bits or in full precision.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if name == "adamw":
        return torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=fused)
    return _adamw8bit()(groups, betas=(0.9, 0.95))


def name_states(state: dict[str, Any], optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Any]:
    """An optimizer's state dict keyed by parameter names, since strategies number parameters differently.

    Optimizers load it by the order within the groups, FSDP2 by the names. A dict without state (of a rank that saves nothing) is
    returned as it is.
    """
    if "param_groups" not in state:
        return state
    names = {parameter: name for name, parameter in model.named_parameters()}
    named = {
        key: names[parameter]
        for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=True)
        for key, parameter in zip(saved["params"], group["params"], strict=True)
    }
    groups = [{**saved, "params": [named[key] for key in saved["params"]]} for saved in state["param_groups"]]
    return {**state, "state": {named[key]: moments for key, moments in state["state"].items()}, "param_groups": groups}


def warm_up_then_cosine(warmup: float, total: int) -> Callable[[int], float]:
    """Factor of the learning rate by optimizer step: linear to 1, then half a cosine down to FLOOR.

    Args:
        warmup: steps of the linear part; a number below 1 is their share of all steps.
        total: all steps.
    """
    warmup = round(warmup * total) if warmup < 1 else warmup

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min((step - warmup) / max(total - warmup, 1), 1.0)
        return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * progress))

    return factor


def _matching(model: nn.Module, pattern: str, where: str) -> list[tuple[str, nn.Parameter]]:
    try:
        # Adapters prefix the names.
        named = [(name.removeprefix("base_model.model."), p) for name, p in model.named_parameters()]
        matching = [(name, p) for name, p in named if re.match(pattern, name)]
    except re.error as error:
        raise UserError(f"{pattern!r} is no regular expression: {error}", where) from error
    if not matching:
        parts = ", ".join(sorted({".".join(name.split(".")[:2]) for name, _ in named}))
        raise UserError(f"no parameter's name begins with {pattern!r}", where, f"there are {parts}")
    return matching
