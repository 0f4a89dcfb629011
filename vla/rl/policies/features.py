"""What an RL head sees as one vector: pooled states, or a picture through a small network, beside all that is no picture."""

from __future__ import annotations

from typing import Any, Literal

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN

from vla.promptable.pooler import MeanPooler, Pooler


class PooledFeatures(BaseFeaturesExtractor):
    """The features extractor of Stable-Baselines3 for what `PromptedVecEnv` gives.

    Args:
        observation_space: its.
        pooler: "attention", the paper's, or "mean".
        width, heads, hidden: of the attention pooler.
        out: width of the pooled vector, and of a picture's.
        mix: layers of the representation that are weighted into one.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        pooler: Literal["attention", "mean"] = "attention",
        width: int = 512,
        heads: int = 2,
        hidden: int = 512,
        out: int = 128,
        mix: int = 1,
    ):
        given: dict[str, Any] = dict(observation_space.spaces)
        plain = [name for name in sorted(given) if name in ("state", "answer", "oracle")]
        # Stable-Baselines3 turns pictures to [3, H, W] and divides by 255.
        cameras = [name for name in sorted(given) if len(given[name].shape) == 3]
        size = sum(given[name].shape[0] for name in plain) + out * (len(cameras) + ("tokens" in given))
        super().__init__(observation_space, size)
        self.plain, self.cameras = plain, cameras
        if "tokens" in given:
            raw = given["tokens"].shape[-1]
            self.pooler = MeanPooler(raw, out, mix) if pooler == "mean" else Pooler(raw, width, heads, hidden, out, mix)
        self.networks = torch.nn.ModuleDict({name: NatureCNN(given[name], out) for name in self.cameras})

    def forward(self, observations: dict[str, torch.Tensor]) -> torch.Tensor:
        parts = [observations[name] for name in self.plain]
        if "tokens" in observations:
            parts.insert(0, self.pooler(observations["tokens"], observations["padding"]))
        return torch.cat([*parts, *(self.networks[name](observations[name]) for name in self.cameras)], 1)
