"""Converts a head that Stable-Baselines3 trained on the tabletop to the `Head` of a policy for `vla rollout` and `vla serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

from vla.contract import PolicyContract
from vla.policies.prompted import HeadDescription, write_prompted
from vla.promptable.cache import CachedRepresentation
from vla.promptable.head import Head
from vla.promptable.instruction_vocabulary import FIELDS, InstructionVocabulary
from vla.rl.envs.observation import ObservationOptions
from vla.rl.envs.registry import environment_class
from vla.rl.policies.features import PooledFeatures, mixed_layers
from vla.rl.policies.options import PolicyOptions
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME
from vla.sim.tabletop.scene import COLOURS, SHAPES

# The words are in the order of the environment's state.
VOCABULARY = InstructionVocabulary((*COLOURS, *SHAPES), tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES))


def unfit(environment: str, observation: ObservationOptions, representation: CachedRepresentation | None) -> str:
    """Returns why a head cannot act as a policy of the simulated robot; "" if it can."""
    if why := environment_class(environment).unfit(environment):
        return why
    if missing := sorted({"oracle", "answer"} & set(observation.observe)):
        return f"it observes {' and '.join(missing)}, which only training provides"
    fields = set(representation.prompt.fields) - set(FIELDS) if representation else set()
    return f"its prompt has the fields {', '.join(sorted(fields))}, which an instruction does not fill" if fields else ""


def as_head(policy: BasePolicy, options: PolicyOptions, mix: int) -> tuple[Head, dict[str, Any]]:
    """Returns the actor as a `Head` with the same weights, rearranged, and the head's arguments.

    The inputs of `Head` differ only in scale: it takes the robot's state and images from -1 to 1, while the environment gives the
    state in units and Stable-Baselines3 scales images to 0 to 1. The first layers absorb the difference.

    Args:
        policy: policy of PPO or SAC.
        options: the options with which it was built.
        mix: number of layers of the states that are combined by learned weights.
    """
    if isinstance(policy, SACPolicy):
        actor, features = policy.actor, policy.actor.features_extractor
        hidden, last = actor.latent_pi, actor.mu
    else:
        assert isinstance(policy, ActorCriticPolicy)
        features = policy.features_extractor
        hidden, last = policy.mlp_extractor.policy_net, policy.action_net
    assert isinstance(features, PooledFeatures) and isinstance(hidden, nn.Sequential) and isinstance(last, nn.Linear)
    assert isinstance(policy.observation_space, spaces.Dict)
    linears = [*(layer for layer in hidden if isinstance(layer, nn.Linear)), last]
    entries, pooled = policy.observation_space.spaces, options.pooler.out
    raw = (entries["tokens"].shape or (0,))[-1] if "tokens" in entries else 0
    cameras = [camera.name for camera in EMBODIMENT.cameras if camera.name in features.cameras]
    sizes = {
        "numbers": EMBODIMENT.state.size + len(VOCABULARY.words),
        "out": last.out_features,
        "raw": raw,
        "cameras": len(cameras),
    }
    arguments: dict[str, Any] = {**sizes, **options.head(mix)}
    head = Head(**arguments)
    with torch.no_grad():
        if head.pooler is not None:
            head.pooler.load_state_dict(features.pooler.state_dict())
        for name, network in zip(cameras, head.looks, strict=True):
            _copy_image_network(network, features.networks[name])
        layers = [layer for layer in head.net if isinstance(layer, nn.Linear)]
        for new, old in zip(layers, linears, strict=True):
            new.load_state_dict(old.state_dict())
        _copy_first_layer(layers[0], linears[0], pooled * bool(raw), [features.cameras.index(name) for name in cameras], pooled)
    return head.eval(), arguments


def _copy_image_network(new: nn.Module, old: nn.Module) -> None:
    layers = [layer for layer in new.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    others = [layer for layer in old.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for one, other in zip(layers, others, strict=True):
        one.load_state_dict(other.state_dict())
    # The network was trained on (x + 1) / 2.
    first = layers[0]
    assert first.bias is not None
    first.bias.add_(first.weight.sum((1, 2, 3)) / 2)
    first.weight.div_(2)


def _copy_first_layer(new: nn.Linear, old: nn.Linear, pooled: int, cameras: list[int], width: int) -> None:
    """Copies the first layer from Stable-Baselines3's order (pooled states, numbers, images) to `Head`'s (numbers first)."""
    state, numbers = EMBODIMENT.state, EMBODIMENT.state.size + len(VOCABULARY.words)
    low, high = torch.tensor(state.low), torch.tensor(state.high)
    weights, start = old.weight, pooled + numbers
    own = weights[:, pooled:start].clone()
    new.bias.add_(own[:, : state.size] @ ((low + high) / 2))
    own[:, : state.size] *= (high - low) / 2
    images = [weights[:, start + camera * width : start + (camera + 1) * width] for camera in cameras]
    new.weight.copy_(torch.cat([own, weights[:, :pooled], *images], 1))


def write_policy(
    folder: Path,
    policy: BasePolicy,
    options: PolicyOptions,
    observation: ObservationOptions,
    representation: CachedRepresentation | None,
    title: str,
    more: dict[str, Any],
) -> Path:
    """Writes the export of a head for which `unfit` returns "".

    Args:
        folder: folder of the export.
        policy: policy of PPO or SAC.
        options: the options with which it was built.
        observation: what it observes.
        representation: what `observation.open` returned.
        title: title of the contract.
        more: further information kept in the export.
    """
    head, arguments = as_head(policy, options, mixed_layers(representation))
    model = observation.exported(representation)
    contract = PolicyContract(
        {EMBODIMENT_NAME: EMBODIMENT},
        codec="none",
        prompt=model.get("prompt", ""),
        plan=(),
        chunk=1,
        execute=1,
        terminate=False,
        title=title,
    )
    pixels, squash = "pixels" in observation.observe, isinstance(policy, SACPolicy)
    return write_prompted(
        folder, head, contract, HeadDescription(VOCABULARY, arguments, pixels, squash=squash, more=more, **model)
    )
