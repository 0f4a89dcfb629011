"""Attention masks and positions of sequences with a prefix, blocks and branches; and the attention function of `TinyVLM`."""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import AttentionInterface

NAME = "vla_prefix"


def visible(attention: torch.Tensor, group: torch.Tensor, branch: torch.Tensor | None = None, first: int = 0) -> torch.Tensor:
    """Returns which keys each query attends to: earlier tokens and all tokens of its own group, but none of other branches.

    Args:
        attention: [B, K] bool, False is padding, which no other token attends to.
        group: [B, K], `PREFIX` or `BLOCK` where a token belongs to such a group, else 0.
        branch: [B, K], 0 in the trunk, one number per branch; None: there are no branches.
        first: index of the first query; the queries are the last K - first tokens.

    Returns:
        [B, 1, K - first, K] bool. Every query attends to itself, so no row of the mask is empty, not even that of padding.
    """
    keys = torch.arange(attention.shape[1], device=attention.device)
    query = keys[first:, None]
    mask = (keys <= query) | ((group[:, first:, None] == group[:, None, :]) & (group[:, None, :] > 0))
    if branch is not None:
        mask = mask & ((branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, first:, None]))
    return ((mask & attention[:, None, :]) | (keys == query))[:, None]


def positions(attention: torch.Tensor, branch: torch.Tensor | None = None) -> torch.Tensor:
    """Returns position ids [B, L]. Padding is not counted, and every branch continues from the end of the trunk.

    Args:
        attention: [B, L] bool, False is padding.
        branch: [B, L], 0 in the trunk, which comes first, then one number per branch; None: there are no branches.
    """
    order = (attention.long().cumsum(1) - 1).clamp_min(0)
    if branch is None:
        return order
    begins = branch != torch.nn.functional.pad(branch, (1, 0))[:, :-1]
    start = torch.where(begins, order, 0).cummax(1).values
    trunk = ((branch == 0) & attention).sum(1, keepdim=True)
    return torch.where((branch > 0) & attention, order - start + trunk, order)


def additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Converts a bool mask to one that is added to attention scores: 0 where True, else the smallest number of `dtype`."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def attend(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **_):
    """Implements transformers' `AttentionInterface`: queries [B, H, Q, D] and an additive mask -> ([B, Q, H, D], None).

    On a CPU the fused kernel's bf16 backward is slow (3 times slower than separate matrix products, measured at 140 tokens), so
    bf16 on a CPU uses matrix products and everything else the fused kernel. With grouped queries, keys and values are repeated.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if key.shape[1] != query.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    value = value.to(query.dtype)
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        scores = (query * scaling) @ key.to(query.dtype).transpose(-1, -2)
        # Under autocast softmax would convert the scores to float32 and back; its kernel sums in float32 anyway.
        with torch.autocast("cpu", enabled=False):
            weights = functional.softmax(scores + attention_mask.to(scores.dtype), dim=-1)
        out = functional.dropout(weights, dropout, module.training) @ value
    else:
        mask = attention_mask.to(query.dtype)
        out = functional.scaled_dot_product_attention(query, key.to(query.dtype), value, mask, dropout, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend)
