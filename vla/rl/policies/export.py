"""Writes and reads a head that acts only in its environment, as a folder of safetensors and JSON, without pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from stable_baselines3.common.policies import BasePolicy, MultiInputActorCriticPolicy
from stable_baselines3.sac.policies import MultiInputPolicy as SACPolicy

from vla.errors import UserError
from vla.policies.prompted import DESCRIPTION, KIND, WEIGHTS, atomic_folder
from vla.promptable.cache import CachedRepresentation
from vla.report.provenance import provenance
from vla.rl.policies.features import mixed_layers, sb3_policy
from vla.rl.policies.options import PolicyOptions, PoolerOptions


def write_agent(
    folder: Path, policy: BasePolicy, options: dict[str, Any], representation: CachedRepresentation | None, unfit: str
) -> Path:
    """Writes the export atomically, replacing an earlier one.

    Args:
        folder: folder of the export.
        policy: policy of Stable-Baselines3.
        options: the run's options, as they are saved.
        representation: the frozen model, if there is one.
        unfit: why `vla rollout` cannot use the head.
    """
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in policy.state_dict().items()}
    content = {
        "kind": KIND,
        "unfit": unfit,
        "options": options,
        "representation": representation.identity if representation else None,
        "mix": mixed_layers(representation),
        "observations": {name: _box(space) for name, space in policy.observation_space.spaces.items()},  # type: ignore[attr-defined]
        "actions": _actions(policy.action_space),
        **provenance(),
    }
    with atomic_folder(folder) as unfinished:
        save_file(weights, unfinished / WEIGHTS)
        (unfinished / DESCRIPTION).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return folder


def read_agent(folder: str | Path) -> tuple[BasePolicy, dict[str, Any]]:
    """Returns the head in evaluation mode and the content of its JSON, in which `options` are the run's saved options.

    Raises:
        UserError: there is no export, or it is damaged.
    """
    folder = Path(folder)
    try:
        content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        policy = _policy(content)
        policy.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        fix = f"give a folder with {DESCRIPTION} and {WEIGHTS}"
        raise UserError(f"not an export of an RL head: {error}", str(folder), fix) from error
    policy.set_training_mode(False)
    return policy, content


def _policy(content: dict[str, Any]) -> BasePolicy:
    entries = spaces.Dict({name: _space(box) for name, box in content["observations"].items()})
    run = content["options"]
    kind = MultiInputActorCriticPolicy if run["algorithm"] == "ppo" else SACPolicy
    head = sb3_policy(PolicyOptions(PoolerOptions(**run["pooler"]), run["net"]), content["mix"])
    return kind(entries, _action_space(content["actions"]), lambda _: 0.0, **head)  # type: ignore[arg-type]


def _box(space: spaces.Space) -> dict[str, Any]:
    assert isinstance(space, spaces.Box)
    return {"shape": list(space.shape), "dtype": str(space.dtype)}


def _space(box: dict[str, Any]) -> spaces.Box:
    dtype = np.dtype(box["dtype"])
    low, high = (0, 255 if len(box["shape"]) == 3 else 1) if dtype == np.uint8 else (-np.inf, np.inf)
    return spaces.Box(low, high, tuple(box["shape"]), dtype.type)


def _actions(space: spaces.Space) -> dict[str, Any]:
    if isinstance(space, spaces.Discrete):
        return {"discrete": int(space.n)}
    assert isinstance(space, spaces.Box)
    return {"low": space.low.tolist(), "high": space.high.tolist()}


def _action_space(saved: dict[str, Any]) -> spaces.Space:
    if "discrete" in saved:
        return spaces.Discrete(saved["discrete"])
    return spaces.Box(np.array(saved["low"], np.float32), np.array(saved["high"], np.float32))


def act(policy: BasePolicy, observations: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the most likely actions for a batch of observations."""
    with torch.inference_mode():
        return policy.predict(observations, deterministic=True)[0]  # type: ignore[arg-type]
