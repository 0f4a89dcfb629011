"""From a set of states to one vector: the small network that learns, between the frozen model and an RL head."""

from __future__ import annotations

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
        dropout: 0, as PPO compares a step's probability before and after: noise in the network would look like a change.
    """

    def __init__(
        self, raw: int, width: int = 512, heads: int = 2, hidden: int = 512, out: int = 128, mix: int = 1, dropout: float = 0.0
    ):
        super().__init__()
        self.mix = Mix(mix)
        self.project = nn.Linear(raw, width)
        self.transformer = nn.Transformer(width, heads, 1, 1, hidden, dropout, batch_first=True)
        # Its shortcut for padding gives back fewer columns than it got.
        self.transformer.encoder.enable_nested_tensor = False
        self.query = nn.Parameter(torch.randn(1, 1, width) / width**0.5)
        self.out = nn.Linear(width, out)

    def forward(self, tokens: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        """Tokens [B, L, raw] of any float type and padding [B, L] (True is padding) -> [B, out]."""
        tokens, padding = self.mix(*checked(tokens, padding))
        if self.training:
            # Columns of nothing but padding: only in training, as other shapes give other last digits.
            real = ~padding.all(0)
            tokens, padding = tokens[:, real], padding[:, real]
        source, query = self.project(tokens), self.query.expand(len(tokens), -1, -1)
        found = self.transformer(source, query, src_key_padding_mask=padding, memory_key_padding_mask=padding)
        return self.out(found[:, 0])


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
