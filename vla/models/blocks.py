"""The blocks of a model: what is computed again in the backward pass, sharded and compiled one by one."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from transformers.modeling_layers import GradientCheckpointingLayer

from vla.models.families.base import ModelFamily
from vla.models.families.hub import HubFamily


def blocks(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks of all the model's networks, in their order; a block within a block is part of the outer one.

    They are the layers that transformers itself can checkpoint. A model without them has the entries of its lists of layers.
    """
    own = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    listed = own or [layer for m in model.modules() if isinstance(m, nn.ModuleList) for layer in m]
    within = {id(part) for block in listed for part in block.modules() if part is not block}
    return [block for block in listed if id(block) not in within]


def compute_again(model: Any, again: bool = True) -> None:
    """Whether the blocks are computed again in the backward pass (activation checkpointing)."""
    method = "enable" if again else "disable"
    # transformers renamed it.
    prefix = "activation" if hasattr(model, f"activation_checkpointing_{method}") else "gradient"
    getattr(model, f"{prefix}_checkpointing_{method}")()


def shard(model: Any, mesh: DeviceMesh, family: ModelFamily) -> None:
    """Shards a model by FSDP2, each block by itself, then the rest; does nothing if it is sharded already.

    A family that calls parts of its models is called by `model.sharded_score`, which gathers what is in no block before.
    """
    if isinstance(model, FSDPModule):
        return
    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    if isinstance(family, HubFamily):
        model.sharded_score = functools.partial(family.score, model)
        register_fsdp_forward_method(model, "sharded_score")


@contextlib.contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Holds the weights that are in no block whole, if FSDP2 shards them, while parts of the model are called by themselves."""
    if isinstance(model, FSDPModule):
        model.unshard()
    try:
        yield
    finally:
        if isinstance(model, FSDPModule):
            model.reshard()
