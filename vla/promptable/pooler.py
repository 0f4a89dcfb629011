"""Poolers: trained networks that turn the states of a frozen model into one vector for an RL head."""

from __future__ import annotations

from typing import cast

import torch
from einops import rearrange
from torch import nn

from vla.errors import UserError


class Pooler(nn.Module):
    """The pooler of PR2L: a projection, a Transformer with one encoder and one decoder layer and a learned query, a projection.

    Shapes as in the authors' notebook (Chen et al. 2024): width 512, two heads, feed-forward width 512, output width 128. No
    position embeddings are added: the model's states contain positions.

    Args:
        raw: width of the model's states.
        width, heads, hidden: width, heads and feed-forward width of the Transformer.
        out: width of the vector.
        mix: number of layers per token, adjacent in the input, that are averaged with learned weights that start equal; 1: none.
    """

    def __init__(self, raw: int, width: int = 512, heads: int = 2, hidden: int = 512, out: int = 128, mix: int = 1):
        super().__init__()
        self.mix = Mix(mix)
        self.project = nn.Linear(raw, width)
        # No dropout: PPO compares probabilities before and after an update, and noise would look like a change.
        self.transformer = nn.Transformer(width, heads, 1, 1, hidden, dropout=0.0, batch_first=True)
        self.query = nn.Parameter(torch.randn(1, 1, width) / width**0.5)
        self.out = nn.Linear(width, out)

    def forward(self, tokens: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        """Tokens [B, L, raw] of any float type and padding [B, L] (True is padding) -> [B, out]."""
        tokens, padding = self.mix(*checked(tokens, padding))
        if self.training:
            # Drop columns of padding only. Not in evaluation, where another shape would change the last digits.
            real = ~padding.all(0)
            tokens, padding = tokens[:, real], padding[:, real]
        encoder = cast(nn.TransformerEncoder, self.transformer.encoder)
        decoder = cast(nn.TransformerDecoder, self.transformer.decoder)
        encode, decode = cast(nn.TransformerEncoderLayer, encoder.layers[0]), cast(nn.TransformerDecoderLayer, decoder.layers[0])
        encoder_norm, decoder_norm = cast(nn.LayerNorm, encoder.norm), cast(nn.LayerNorm, decoder.norm)
        visible = ~padding[:, None, None]
        x = self.project(tokens)
        x = encode.norm1(x + attend(encode.self_attn, x, x, visible))
        x = encoder_norm(encode.norm2(x + encode.linear2(encode.linear1(x).relu())))
        q = self.query.expand(len(x), -1, -1)
        q = decode.norm1(q + attend(decode.self_attn, q, q))
        q = decode.norm2(q + attend(decode.multihead_attn, q, x, visible))
        q = decoder_norm(decode.norm3(q + decode.linear2(decode.linear1(q).relu())))
        return self.out(q[:, 0])


def attend(
    module: nn.MultiheadAttention, query: torch.Tensor, source: torch.Tensor, visible: torch.Tensor | None = None
) -> torch.Tensor:
    """Computes what PyTorch's module does, without its copies, which take a quarter of a training step here.

    Args:
        module: the attention module.
        query, source: [B, Q, D] and [B, S, D].
        visible: [B, 1, 1, S], False is padding; None: there is no padding.
    """
    weights, biases = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
    projections = zip((query, source, source), weights, biases, strict=True)
    q, k, v = (rearrange(nn.functional.linear(*args), "b l (h d) -> b h l d", h=module.num_heads) for args in projections)
    attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    return module.out_proj(rearrange(attended, "b h l d -> b l (h d)"))


class MeanPooler(nn.Module):
    """The control: the mean of the states and a projection. Arguments and shapes as for `Pooler`."""

    def __init__(self, raw: int, out: int = 128, mix: int = 1):
        super().__init__()
        self.mix, self.out = Mix(mix), nn.Linear(raw, out)

    def forward(self, tokens: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        tokens, padding = self.mix(*checked(tokens, padding))
        return self.out(mean(tokens, padding))


class Mix(nn.Module):
    """Averages the adjacent layers of each token with learned weights: [B, T * layers, D] -> [B, T, D]."""

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
    """Converts tokens to float32 and padding to bool. Raises UserError if a row is only padding."""
    padding = padding.bool()
    if padding.all(1).any():
        raise UserError("an observation has no tokens, only padding", "pooler", "keep image or prompt tokens, or write some")
    return tokens.float(), padding


def mean(tokens: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
    """Returns the mean [B, D] of the tokens [B, L, D] that are not padding [B, L]."""
    real = (~padding)[..., None].to(tokens.dtype)
    return (tokens * real).sum(1) / real.sum(1)
