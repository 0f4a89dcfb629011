"""The blocks of a model: what is computed again in the backward pass, sharded and compiled one by one."""

from __future__ import annotations

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


def blocks(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks of all the model's networks, in their order; a block within a block is part of the outer one.

    They are the layers that transformers itself can checkpoint. A model without them has the entries of its lists of layers.
    """
    own = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    listed = own or [layer for m in model.modules() if isinstance(m, nn.ModuleList) for layer in m]
    within = {id(part) for block in listed for part in block.modules() if part is not block}
    return [block for block in listed if id(block) not in within]
