"""Linear layers with 8-bit integer weights, which read a quarter of float32's bytes, or half of bfloat16's, per token."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

FEW = 16
"""With up to this many tokens an integer kernel is used; with more it is faster to convert the weights to floats first."""


class Int8Linear(nn.Module):
    """A linear layer with integer weights and one scale per output. The largest weight of a row becomes 127 (absmax quantisation,
    LLM.int8(), Dettmers et al. 2022, section 2.1, here for weights only and without outliers).

    Args:
        inputs, outputs: widths.
        bias: whether the layer has a bias.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, dtype=torch.int8), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(outputs), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(outputs), requires_grad=False) if bias else None

    @torch.no_grad()
    def quantise(self, linear: nn.Linear) -> Int8Linear:
        """Takes over the weights of a layer; a weight is off by at most half of its row's scale. Returns itself."""
        weight = linear.weight.float()
        scale = (weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        self.weight.data = (weight / scale[:, None]).round().to(torch.int8)
        self.scale.data = scale.to(linear.weight.dtype)
        if linear.bias is not None:
            self.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., inputs] -> [..., outputs]."""
        # PyTorch's kernel for 16-bit floats on AVX-512 reads 16 inputs at a time, and past the end of rows of other widths.
        supported = x.dtype == torch.float32 or x.shape[-1] % 16 == 0
        if x.device.type == "cpu" and supported and x.numel() <= FEW * x.shape[-1]:
            rows = torch.ops.aten._weight_int8pack_mm(x.reshape(-1, x.shape[-1]), self.weight, self.scale.to(x.dtype))
            out = rows.view(*x.shape[:-1], -1)
        else:
            out = functional.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        return out if self.bias is None else out + self.bias.to(x.dtype)


def to_int8(model: nn.Module, empty: bool = False) -> nn.Module:
    """Replaces every linear layer of a model by an `Int8Linear`, in place. The new weights cannot be trained.

    Args:
        model: e.g. a language model, on any device.
        empty: whether to leave the weights at zero because they are loaded afterwards.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                layer = Int8Linear(child.in_features, child.out_features, child.bias is not None)
                setattr(parent, name, layer if empty else layer.quantise(child))
    return model
