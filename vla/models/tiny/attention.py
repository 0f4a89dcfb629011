"""Who sees whom, and the matrix products that carry it out."""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import AttentionInterface

NAME = "vla_prefix"


def visible(attention: torch.Tensor, group: torch.Tensor, branch: torch.Tensor | None = None, first: int = 0) -> torch.Tensor:
    """Which keys a query sees: what stands before it and, within a group, all of the group; of other branches nothing.

    Args:
        attention: [B, K] bool, False is padding: seen by nobody.
        group: [B, K], `PREFIX` or `BLOCK` where a token belongs to one, 0 where to none.
        branch: [B, K], 0 in the trunk, the same number within a branch; None: all are one.
        first: the queries are the positions from `first` on.

    Returns:
        [B, 1, K - first, K] bool. Every query sees itself, so that no row is blank, not even a padding one.
    """
    place = torch.arange(attention.shape[1], device=attention.device)
    query = place[first:, None]
    seen = (place <= query) | ((group[:, first:, None] == group[:, None, :]) & (group[:, None, :] > 0))
    if branch is not None:
        seen = seen & ((branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, first:, None]))
    return ((seen & attention[:, None, :]) | (place == query))[:, None]


def positions(attention: torch.Tensor, branch: torch.Tensor | None = None) -> torch.Tensor:
    """The place [B, L] of each token in its text: padding takes none, and every branch goes on where the trunk ends.

    Args:
        attention: [B, L] bool, False is padding.
        branch: [B, L], 0 in the trunk, which comes first, then branch after branch; None: all are one.
    """
    order = (attention.long().cumsum(1) - 1).clamp_min(0)
    if branch is None:
        return order
    begins = branch != torch.nn.functional.pad(branch, (1, 0))[:, :-1]
    start = torch.where(begins, order, 0).cummax(1).values
    trunk = ((branch == 0) & attention).sum(1, keepdim=True)
    return torch.where((branch > 0) & attention, order - start + trunk, order)


def additive(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The same as 0 and the smallest number of `dtype`, to be added to attention scores."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


def attend(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **_):
    """Attention for transformers' interface: [B, H, Q, D] queries, additive mask -> ([B, Q, H, D], None).

    On a CPU the fused kernel has no fast bf16 backward (3 times slower than three matrix products, measured at 140
    tokens); elsewhere it is the better one. Grouped keys (fewer key than query heads) are repeated.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if key.shape[1] != query.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    value = value.to(query.dtype)
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        scores = (query * scaling) @ key.to(query.dtype).transpose(-1, -2)
        # The explicit dtype keeps autocast from carrying the scores to float32 and back; the kernel sums in float32 anyway.
        with torch.autocast("cpu", enabled=False):
            weights = functional.softmax(scores + attention_mask.to(scores.dtype), dim=-1)
        out = functional.dropout(weights, dropout, module.training) @ value
    else:
        mask = attention_mask.to(query.dtype)
        out = functional.scaled_dot_product_attention(query, key.to(query.dtype), value, mask, dropout, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend)
