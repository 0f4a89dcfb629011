"""From a set of states to one vector: the small network that learns, between the frozen model and an RL head."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import nn

from vla.errors import UserError


class Pooler(nn.Module):
    """PR2L's: a projection, a Transformer of one encoder and one decoder layer asked by a learned query, and a projection.

    Shapes as in the authors' notebook (Chen et al. 2024): 512 wide, two heads, feed-forward part 512 wide, 128 out. Tokens have
    no positions but what the model wrote into its states.

    Args:
        raw: width of the model's states.
        width, heads, hidden: of the Transformer.
        out: width of the vector.
        mix: layers that stand one after the other for each token and are weighted into one, by learned shares that start equal;
            1 leaves the tokens as they are.
    """

    def __init__(self, raw: int, width: int = 512, heads: int = 2, hidden: int = 512, out: int = 128, mix: int = 1):
        super().__init__()
        self.mix = Mix(mix)
        self.project = nn.Linear(raw, width)
        # No dropout: PPO compares a step's probability before and after, and noise in the network would look like a change.
        self.transformer = nn.Transformer(width, heads, 1, 1, hidden, dropout=0.0, batch_first=True)
        self.query = nn.Parameter(torch.randn(1, 1, width) / width**0.5)
        self.out = nn.Linear(width, out)

    def forward(self, tokens: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        """Tokens [B, L, raw] of any float type and padding [B, L] (True is padding) -> [B, out]."""
        tokens, padding = self.mix(*checked(tokens, padding))
        if self.training:
            # Columns of nothing but padding: only in training, as other shapes give other last digits.
            real = ~padding.all(0)
            tokens, padding = tokens[:, real], padding[:, real]
        encoder: Any = self.transformer.encoder
        decoder: Any = self.transformer.decoder
        reads, asks = encoder.layers[0], decoder.layers[0]
        seen = ~padding[:, None, None]
        x = self.project(tokens)
        x = reads.norm1(x + attend(reads.self_attn, x, x, seen))
        x = encoder.norm(reads.norm2(x + reads.linear2(reads.linear1(x).relu())))
        q = self.query.expand(len(x), -1, -1)
        q = asks.norm1(q + attend(asks.self_attn, q, q))
        q = asks.norm2(q + attend(asks.multihead_attn, q, x, seen))
        q = decoder.norm(asks.norm3(q + asks.linear2(asks.linear1(q).relu())))
        return self.out(q[:, 0])


def attend(
    part: nn.MultiheadAttention, query: torch.Tensor, source: torch.Tensor, seen: torch.Tensor | None = None
) -> torch.Tensor:
    """What PyTorch's module computes, without the copies that take a quarter of a training step here.

    Args:
        query, source: [B, Q, D] and [B, S, D].
        seen: [B, 1, 1, S] True where there is no padding.
    """
    weights, biases = part.in_proj_weight.chunk(3), part.in_proj_bias.chunk(3)
    parts = zip((query, source, source), weights, biases, strict=True)
    q, k, v = (rearrange(nn.functional.linear(*one), "b l (h d) -> b h l d", h=part.num_heads) for one in parts)
    found = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    return part.out_proj(rearrange(found, "b h l d -> b l (h d)"))


class MeanPooler(nn.Module):
    """The control: the mean of the states, and a projection. Arguments and shapes as `Pooler`."""

    def __init__(self, raw: int, out: int = 128, mix: int = 1):
        super().__init__()
        self.mix, self.out = Mix(mix), nn.Linear(raw, out)

    def forward(self, tokens: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        tokens, padding = self.mix(*checked(tokens, padding))
        return self.out(mean(tokens, padding))


class Mix(nn.Module):
    """Weights the layers that stand one after the other for each token: [B, T * layers, D] -> [B, T, D]."""

    def __init__(self, layers: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers)) if layers > 1 else None

    def forward(self, tokens: torch.Tensor, padding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.weights is None:
            return tokens, padding
        layers = len(self.weights)
        apart = rearrange(tokens, "b (t layer) d -> b t layer d", layer=layers)
        return torch.einsum("btld,l->btd", apart, self.weights.softmax(0)), padding[:, ::layers]


def checked(tokens: torch.Tensor, padding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens in float32 and padding as bool; UserError where a row is nothing but padding, of which there is no mean."""
    padding = padding.bool()
    if padding.all(1).any():
        raise UserError("an observation has no tokens, only padding", "pooler", "keep image or prompt tokens, or write some")
    return tokens.float(), padding


def mean(tokens: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
    """The mean [B, D] of the tokens [B, L, D] that are no padding [B, L]."""
    real = (~padding)[..., None].to(tokens.dtype)
    return (tokens * real).sum(1) / real.sum(1)
