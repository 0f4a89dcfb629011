"""A head that acts in its environment only, as a folder of safetensors and JSON, and back: no pickle, nothing that runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy, MultiInputActorCriticPolicy
from stable_baselines3.sac.policies import MultiInputPolicy as SACPolicy

from vla.errors import UserError
from vla.policies.prompted import KIND, SAID, WEIGHTS, whole_folder
from vla.promptable.cache import CachedRepresentation
from vla.report.provenance import provenance
from vla.rl.runs.build import mixed_layers, policy_arguments
from vla.rl.runs.options import CacheOptions, EnvironmentOptions, PoolerOptions, RLOptions, Settings


def write_agent(
    folder: Path, agent: BaseAlgorithm, options: RLOptions, representation: CachedRepresentation | None, unfit: str
) -> Path:
    """Writes the export whole or not at all, replacing an earlier one; it says why `vla rollout` cannot use it."""
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in agent.policy.state_dict().items()}
    said = {
        "kind": KIND,
        "unfit": unfit,
        "options": options.to_dict(),
        "representation": representation.identity if representation else None,
        "mix": mixed_layers(options, representation),
        "observations": {name: _box(space) for name, space in agent.observation_space.spaces.items()},  # type: ignore[attr-defined]
        "actions": _actions(agent.action_space),
        **provenance(),
    }
    with whole_folder(folder) as unfinished:
        save_file(weights, unfinished / WEIGHTS)
        (unfinished / SAID).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    return folder


def read_agent(folder: str | Path) -> tuple[BasePolicy, RLOptions, dict[str, Any]]:
    """The head in evaluation mode, what it was trained with, and all that the export says.

    Raises:
        UserError: there is no export, or it is damaged.
    """
    folder = Path(folder)
    try:
        said = json.loads((folder / SAID).read_text(encoding="utf-8"))
        options = _options(said["options"])
        policy = _policy(said, options)
        policy.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"no export of an RL head: {error}", str(folder), f"give a folder with {SAID} and {WEIGHTS}") from error
    policy.set_training_mode(False)
    return policy, options, said


def _policy(said: dict[str, Any], options: RLOptions) -> BasePolicy:
    seen = spaces.Dict({name: _space(box) for name, box in said["observations"].items()})
    kind: Any = MultiInputActorCriticPolicy if options.algorithm == "ppo" else SACPolicy
    return kind(seen, _action_space(said["actions"]), lambda _: 0.0, **policy_arguments(options, said["mix"]))


def _options(said: dict[str, Any]) -> RLOptions:
    inner = {"environment": EnvironmentOptions, "representation": Settings, "pooler": PoolerOptions, "cache": CacheOptions}
    return RLOptions(**{name: inner[name](**value) if name in inner else value for name, value in said.items()})


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


def _action_space(said: dict[str, Any]) -> spaces.Space:
    if "discrete" in said:
        return spaces.Discrete(said["discrete"])
    return spaces.Box(np.array(said["low"], np.float32), np.array(said["high"], np.float32))


def act(policy: BasePolicy, observations: dict[str, np.ndarray]) -> np.ndarray:
    """The likeliest actions on a batch of what `PromptedVecEnv` gives."""
    with torch.inference_mode():
        return policy.predict(observations, deterministic=True)[0]  # type: ignore[arg-type]
