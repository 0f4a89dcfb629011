"""The vision encoder: images to tokens of the language model's width."""

from __future__ import annotations

import math
from typing import cast

import timm
import torch
from einops import rearrange, repeat
from timm.layers.norm_act import freeze_batch_norm_2d
from timm.models import FeatureInfo
from torch import nn

from vla.errors import UserError
from vla.models.tiny.config import TinyVLMConfig


class Vision(nn.Module):
    """A convolutional network whose feature map is pooled, projected and given position and camera embeddings.

    Two-dimensional sine-cosine positions and the camera's embedding are added after the projection. The language model can then
    read a token's position linearly; otherwise learning of *where* questions stays long on a plateau.
    """

    def __init__(self, config: TinyVLMConfig):
        super().__init__()
        self.config, width = config, config.vision_width or config.text_config.hidden_size
        self.network, channels = _network(config)
        # Normalised before the position is added: content that starts small beside the position is learned late.
        self.project = nn.Sequential(nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width))
        self.camera = nn.Parameter(0.02 * torch.randn(len(config.pools), width))
        self.age = nn.Embedding(config.history - 1, width) if config.history > 1 else None
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, config.text_config.hidden_size) if config.vision_width else None

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels [B, T * C, 3, H, W] in [-1, 1], oldest first -> tokens [B, N, D], image after image, row by row.

        Fewer images than history * cameras are the first of them.
        """
        batch, count, _, height, width = pixels.shape
        size, cameras = self.config.image_size, len(self.config.pools)
        most = self.config.history * cameras
        if not 0 < count <= most or (height, width) != (size, size):
            raise UserError(f"{count} images of {height} x {width}", "vision input", f"give at most {most} of {size} x {size}")
        # A policy gives float32, whatever the weights are.
        flat = rearrange(pixels.to(self.camera.dtype), "b p rgb h w -> (b p) rgb h w").contiguous(
            memory_format=torch.channels_last
        )
        maps = rearrange(self.network(flat)[0], "(b p) d h w -> p b d h w", b=batch)
        tokens = []
        for number, map_ in enumerate(maps):
            time, index = divmod(number, cameras)
            pool, camera = self.config.pools[index], self.camera[index]
            pooled = rearrange(nn.functional.avg_pool2d(map_, pool) if pool > 1 else map_, "b d h w -> b (h w) d")
            position = positions(size // self.config.stride // pool, len(camera)).to(camera) + camera
            if self.age is not None and time < self.config.history - 1:
                position = position + self.age.weight[time]
            tokens.append(self.project(pooled) + position)
        normal = self.norm(torch.cat(tokens, 1))
        return normal if self.widen is None else self.widen(normal)


def _network(config: TinyVLMConfig) -> tuple[nn.Module, int]:
    """Returns the timm network up to the feature map of the configured stride, and that map's channels."""
    args = config.vision_args or {}
    network = timm.create_model(config.vision_name, pretrained=False, features_only=True, **args)
    info = cast(FeatureInfo, network.feature_info)
    reductions = info.reduction()
    if config.stride not in reductions:
        raise UserError(
            f"{config.vision_name} has no feature of stride {config.stride}", "model configuration", f"one of {reductions}"
        )
    index = reductions.index(config.stride)
    network = timm.create_model(config.vision_name, pretrained=False, features_only=True, out_indices=(index,), **args)
    if config.frozen_norm:
        network = freeze_batch_norm_2d(network)
    return network.to(memory_format=torch.channels_last), info.channels()[index]


def positions(side: int, width: int) -> torch.Tensor:
    """Returns a sine-cosine code [side * side, width] of the cells' centres, row by row: half encodes the row, half the column.

    Wavelengths run geometrically from four image widths down to two cells of an 8 x 8 grid. Equal points of an image have equal
    codes in grids of different pooling.
    """
    centres = (torch.arange(side) + 0.5) / side
    quarter = -(-width // 4)
    angles = 2 * math.pi * centres[:, None] * torch.logspace(math.log10(0.25), math.log10(4.0), quarter)
    code = torch.cat([angles.sin(), angles.cos()], 1)
    rows, columns = repeat(code, "row d -> (row side) d", side=side), repeat(code, "column d -> (side column) d", side=side)
    return torch.cat([rows, columns], -1)[:, :width]
