"""Weights as 8-bit integers: a quarter of the bytes of float32, half of bfloat16's, read at every token of an answer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

FEW = 16
"""Up to so many tokens the integers are multiplied as they are; for more they are turned into floats first, which then pays."""


class Int8Linear(nn.Module):
    """A linear layer with integer weights and a scale per output: symmetric, the largest weight of a row is 127 (LLM.int8()
    without its outliers, Dettmers et al. 2022, section 2.1, and for weights only).

    Args:
        inputs, outputs: widths.
        bias: whether there is one.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, dtype=torch.int8), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(outputs), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(outputs), requires_grad=False) if bias else None

    @torch.no_grad()
    def take(self, linear: nn.Linear) -> Int8Linear:
        """Becomes this layer, with half a step of its row's scale lost in each weight."""
        weight = linear.weight.float()
        scale = (weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        self.weight.data = (weight / scale[:, None]).round().to(torch.int8)
        self.scale.data = scale.to(linear.weight.dtype)
        if linear.bias is not None:
            self.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., inputs] -> [..., outputs]."""
        # PyTorch's kernel for 16-bit floats and AVX-512 takes 16 inputs at a time, and reads past the end of a row of others.
        whole = x.dtype == torch.float32 or x.shape[-1] % 16 == 0
        if x.device.type == "cpu" and whole and x.numel() <= FEW * x.shape[-1]:
            rows = torch.ops.aten._weight_int8pack_mm(x.reshape(-1, x.shape[-1]), self.weight, self.scale.to(x.dtype))
            out = rows.view(*x.shape[:-1], -1)
        else:
            out = functional.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        return out if self.bias is None else out + self.bias.to(x.dtype)


def to_int8(model: nn.Module, empty: bool = False) -> nn.Module:
    """Turns every linear layer of a model (a language model, say) into integers, in place; such weights do not learn.

    Args:
        model: on any device.
        empty: the weights are loaded afterwards.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                layer: Any = Int8Linear(child.in_features, child.out_features, child.bias is not None)
                setattr(parent, name, layer if empty else layer.take(child))
    return model
