"""Makes environments by name, also several at a time."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from typing import Protocol

import gymnasium
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from vla.errors import UserError
from vla.rl.envs.subprocess_vec_env import SubprocessVecEnv

ENVIRONMENTS = {
    "BabyAI-": "vla.rl.envs.babyai:BabyAI",
    "tabletop/": "vla.rl.envs.tabletop:Tabletop",
}
"""Prefix of a name -> the Gymnasium environment behind it, imported when it is used. A prefix that ends in "/" is removed from
the name that the class gets."""


class EnvironmentClass(Protocol):
    """A class of Gymnasium environments whose observation is a dict of images (uint8 [H, W, 3]), "state" and perhaps "oracle".

    Attributes:
        fields: keys of `info["fields"]` after every reset and step; they fill prompts.
        needs_process: whether each environment needs a process of its own, because it renders.
    """

    fields: tuple[str, ...]
    needs_process: bool

    def __call__(self, name: str) -> gymnasium.Env: ...

    def unfit(self, name: str) -> str:
        """Returns why a policy that learned in the environment cannot drive the simulated robot; "" if it can."""
        ...


@dataclasses.dataclass(frozen=True)
class EnvironmentOptions:
    """The environments in which a policy acts.

    Attributes:
        name: a level of BabyAI, e.g. "BabyAI-GoToLocal-v0", or a task of the tabletop, e.g. "tabletop/lift".
        count: number of parallel environments.
    """

    name: str = "BabyAI-GoToLocal-v0"
    count: int = 8

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"{self.count} environments", "environment.count", "give at least 1")


def environment_class(name: str) -> EnvironmentClass:
    """Returns the class behind an environment's name.

    Raises:
        UserError: the name is unknown.
    """
    module, _, attribute = ENVIRONMENTS[_prefix(name)].partition(":")
    return getattr(importlib.import_module(module), attribute)


def make_vec_env(options: EnvironmentOptions) -> VecEnv:
    """Makes parallel environments of one name.

    Raises:
        UserError: the name is unknown.
    """
    cls, prefix = environment_class(options.name), _prefix(options.name)
    make = functools.partial(cls, options.name.removeprefix(prefix) if prefix.endswith("/") else options.name)
    return SubprocessVecEnv(make, options.count) if cls.needs_process else DummyVecEnv([make] * options.count)


def _prefix(name: str) -> str:
    for prefix in ENVIRONMENTS:
        if name.startswith(prefix):
            return prefix
    raise UserError(f"no environment {name!r}", "environment.name", f"names begin with {' or '.join(ENVIRONMENTS)}")
