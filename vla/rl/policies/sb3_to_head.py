"""A head that Stable-Baselines3 trained on the tabletop as the `Head` of a policy that `vla rollout` and `vla serve` take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

from vla.contract import PolicyContract
from vla.policies.prompted import HeadDescription, write_prompted
from vla.promptable.cache import CachedRepresentation
from vla.promptable.head import Head
from vla.promptable.instruction_vocabulary import FIELDS, InstructionVocabulary
from vla.rl.envs.observation import Observation
from vla.rl.envs.registry import environment_class
from vla.rl.policies.features import mixed_layers
from vla.rl.policies.options import PolicyOptions
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME
from vla.sim.tabletop.scene import COLOURS, SHAPES

# In the order of the environment's state.
VOCABULARY = InstructionVocabulary((*COLOURS, *SHAPES), tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES))


def unfit(environment: str, observation: Observation, representation: CachedRepresentation | None) -> str:
    """Why a head cannot act as a policy of the simulated robot; "" where it can."""
    if why := environment_class(environment).unfit(environment):
        return why
    if missing := sorted({"oracle", "answer"} & set(observation.observe)):
        return f"it sees {' and '.join(missing)}, which only training gives it"
    fields = set(representation.prompt.fields) - set(FIELDS) if representation else set()
    return f"its prompt has {', '.join(sorted(fields))}, which no instruction fills" if fields else ""


def as_head(policy: BasePolicy, options: PolicyOptions, mix: int) -> tuple[Head, dict[str, Any]]:
    """The actor as a `Head` with the same weights, rearranged; and the head's arguments.

    What `Head` sees differs in scale only: the robot's state and images from -1 to 1, where the environment gives units and
    Stable-Baselines3 images from 0 to 1. That goes into the first layers.

    Args:
        policy: of PPO or SAC.
        mix: layers of the states that are weighted into one.
    """
    inner: Any = policy.actor if isinstance(policy, SACPolicy) else policy
    if isinstance(policy, SACPolicy):
        hidden, last = inner.latent_pi, inner.mu
    else:
        hidden, last = inner.mlp_extractor.policy_net, inner.action_net
    features, linears = inner.features_extractor, [*(layer for layer in hidden if isinstance(layer, nn.Linear)), last]
    entries, pooled = inner.observation_space.spaces, options.pooler.out
    raw = entries["tokens"].shape[-1] if "tokens" in entries else 0
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
        for name, look in zip(cameras, head.looks, strict=True):
            _look(look, features.networks[name])
        for new, old in zip((layer for layer in head.net if isinstance(layer, nn.Linear)), linears, strict=True):
            new.load_state_dict(old.state_dict())
        _first(head.net[0], linears[0], pooled * bool(raw), [features.cameras.index(name) for name in cameras], pooled)
    return head.eval(), arguments


def _look(new: nn.Module, old: nn.Module) -> None:
    layers = [layer for layer in new.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    others = [layer for layer in old.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for one, other in zip(layers, others, strict=True):
        one.load_state_dict(other.state_dict())
    # (x + 1) / 2 is what it was trained on.
    first = layers[0]
    assert first.bias is not None
    first.bias.add_(first.weight.sum((1, 2, 3)) / 2)
    first.weight.div_(2)


def _first(new: Any, old: nn.Linear, pooled: int, cameras: list[int], width: int) -> None:
    """Stable-Baselines3's first layer takes pooled states, numbers, images; `Head` takes numbers, pooled states, images."""
    state, numbers = EMBODIMENT.state, EMBODIMENT.state.size + len(VOCABULARY.words)
    low, high = torch.tensor(state.low), torch.tensor(state.high)
    weights, start = old.weight, pooled + numbers
    own = weights[:, pooled:start].clone()
    new.bias += own[:, : state.size] @ ((low + high) / 2)
    own[:, : state.size] *= (high - low) / 2
    images = [weights[:, start + camera * width : start + (camera + 1) * width] for camera in cameras]
    new.weight.copy_(torch.cat([own, weights[:, :pooled], *images], 1))


def write_policy(
    folder: Path,
    policy: BasePolicy,
    options: PolicyOptions,
    observation: Observation,
    representation: CachedRepresentation | None,
    title: str,
    more: dict[str, Any],
) -> Path:
    """Writes the export of a head for which `unfit` says nothing.

    Args:
        representation: what `observation.open` gave.
        title: of the contract.
        more: kept in the export for people.
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
