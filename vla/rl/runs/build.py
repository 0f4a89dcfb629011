"""From options to environments with a model in front of them, and to an agent."""

from __future__ import annotations

import functools
from typing import Any

import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

from vla.errors import UserError
from vla.promptable.cache import CachedRepresentation
from vla.promptable.load import load_frozen
from vla.promptable.prompts import PromptTemplate
from vla.promptable.representation import PromptableRepresentation
from vla.rl.envs.babyai import BabyAI
from vla.rl.policies.features import PooledFeatures
from vla.rl.runs.options import RLOptions
from vla.rl.envs.prompted_vec_env import PromptedVecEnv
from vla.rl.envs.subprocess_vec_env import ProcessVecEnv
from vla.rl.envs.tabletop import Tabletop

TABLETOP = "tabletop/"
"""What the names of the tabletop's tasks begin with."""
DEFAULTS: dict[str, dict[str, Any]] = {
    # The notebook's; all else is Stable-Baselines3's.
    "ppo": {"learning_rate": 1e-4, "n_steps": 64, "ent_coef": 5e-3},
    "sac": {"learning_rate": 1e-4, "buffer_size": 20_000, "learning_starts": 500},
}


def make_representation(options: RLOptions) -> CachedRepresentation | None:
    """The frozen model as it is asked; None where nothing asks it."""
    if not {"states", "answer"} & set(options.observe):
        return None
    model, processor = load_frozen(options.vlm, options.random)
    prompt = PromptTemplate(options.prompt)
    made = PromptableRepresentation(model, processor, prompt, options.representation)
    return CachedRepresentation(made, options.cache.folder, options.cache.memory_mb)


def make_environments(options: RLOptions, representation: CachedRepresentation | None) -> VecMonitor:
    """Environments in step, with what a head sees of them."""
    name, count = options.environment.name, options.environment.count
    if name.startswith(TABLETOP):
        made: VecEnv = ProcessVecEnv(functools.partial(Tabletop, name.removeprefix(TABLETOP)), count)
    else:
        made = DummyVecEnv([functools.partial(BabyAI, name)] * count)
    fields = Tabletop.fields if name.startswith(TABLETOP) else BabyAI.fields
    try:
        return VecMonitor(PromptedVecEnv(made, representation, options.observe, fields), info_keywords=("is_success",))
    except UserError:
        made.close()
        raise


def policy_arguments(options: RLOptions, mix: int) -> dict[str, Any]:
    """The head: the pooler as its features extractor, and one hidden layer (the paper: 128 wide, tanh, orthogonal)."""
    p = options.pooler
    pooler = {"pooler": p.kind, "width": p.width, "heads": p.heads, "hidden": p.hidden, "out": p.out, "mix": mix}
    return {
        "features_extractor_class": PooledFeatures,
        "features_extractor_kwargs": pooler,
        "net_arch": options.net,
        "activation_fn": torch.nn.Tanh,
    }


def mixed_layers(options: RLOptions, representation: CachedRepresentation | None) -> int:
    """How many layers the pooler weighs into one."""
    return 1 if representation is None or options.representation.layers != "mix" else len(representation.representation.layers)


def make_agent(options: RLOptions, environments: Any, representation: CachedRepresentation | None) -> BaseAlgorithm:
    """The algorithm with a fresh head; UserError where it does not take the actions, or an argument is unknown."""
    kind = {"ppo": PPO, "sac": SAC}[options.algorithm]
    policy = policy_arguments(options, mixed_layers(options, representation))
    try:
        return kind(
            "MultiInputPolicy",
            environments,
            policy_kwargs=policy,
            seed=options.seed,
            device="auto",
            **{**DEFAULTS[options.algorithm], **options.arguments},
        )
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise UserError(str(error), options.algorithm, "see Stable-Baselines3 for its arguments and actions") from error
