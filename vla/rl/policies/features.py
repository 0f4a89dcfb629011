"""Turns an RL head's observation into one vector: pooled states or encoded images, beside all other numbers."""

from __future__ import annotations

from typing import Any, Literal

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN

from vla.promptable.cache import CachedRepresentation
from vla.promptable.pooler import MeanPooler, Pooler
from vla.rl.policies.options import PolicyOptions


class PooledFeatures(BaseFeaturesExtractor):
    """A features extractor for Stable-Baselines3.

    Args:
        observation_space: a dict of any of "state", "answer", "oracle" (vectors), "tokens" with "padding", and images.
        pooler: "attention", the paper's pooler, or "mean".
        width, heads, hidden: sizes of the attention pooler.
        out: width of the pooled vector, and of each image's vector.
        mix: number of layers of the representation that are combined by learned weights.
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
        # Stable-Baselines3 transposes images to [3, H, W] and divides them by 255.
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


def sb3_policy(options: PolicyOptions, mix: int) -> dict[str, Any]:
    """Returns Stable-Baselines3's `policy_kwargs`: the pooler as features extractor, then hidden layers with tanh.

    Args:
        options: sizes of the pooler and of the hidden layers.
        mix: number of layers of the states that are combined by learned weights.
    """
    p = options.pooler
    pooler = {"pooler": p.kind, "width": p.width, "heads": p.heads, "hidden": p.hidden, "out": p.out, "mix": mix}
    return {
        "features_extractor_class": PooledFeatures,
        "features_extractor_kwargs": pooler,
        "net_arch": options.net,
        "activation_fn": torch.nn.Tanh,
    }


def mixed_layers(representation: CachedRepresentation | None) -> int:
    """Returns the number of layers that the pooler combines by learned weights; 1 if it takes a single layer."""
    if representation is None or representation.representation.settings.layers != "mix":
        return 1
    return len(representation.representation.layers)
