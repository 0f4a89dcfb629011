"""Environments by name, alone or several in step."""

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
"""Start of a name -> the Gymnasium environment behind it, imported when it is used. A start that ends in "/" is no part of the
name that the class is given."""


class EnvironmentClass(Protocol):
    """A Gymnasium environment whose observation is a dict of images (uint8 [H, W, 3]), "state" and maybe "oracle".

    Attributes:
        fields: keys of `info["fields"]` after every reset and step; they fill prompts.
        needs_process: whether each environment runs in a process of its own, because it renders.
    """

    fields: tuple[str, ...]
    needs_process: bool

    def __call__(self, name: str) -> gymnasium.Env: ...

    def unfit(self, name: str) -> str:
        """Why a policy that learned in it cannot drive the simulated robot; "" where it can."""
        ...


@dataclasses.dataclass(frozen=True)
class EnvironmentOptions:
    """Where a policy acts.

    Attributes:
        name: a level of BabyAI, e.g. "BabyAI-GoToLocal-v0", or a task of the tabletop, e.g. "tabletop/lift".
        count: environments in step.
    """

    name: str = "BabyAI-GoToLocal-v0"
    count: int = 8

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"{self.count} environments", "environment.count", "one at least")


def environment_class(name: str) -> EnvironmentClass:
    """The class behind an environment's name; UserError where there is none."""
    module, _, attribute = ENVIRONMENTS[_start(name)].partition(":")
    return getattr(importlib.import_module(module), attribute)


def make_vec_env(options: EnvironmentOptions) -> VecEnv:
    """Environments of one name in step; UserError where the name is unknown."""
    made, start = environment_class(options.name), _start(options.name)
    one = functools.partial(made, options.name.removeprefix(start) if start.endswith("/") else options.name)
    return SubprocessVecEnv(one, options.count) if made.needs_process else DummyVecEnv([one] * options.count)


def _start(name: str) -> str:
    for start in ENVIRONMENTS:
        if name.startswith(start):
            return start
    raise UserError(f"no environment {name!r}", "environment.name", f"its name begins with {' or '.join(ENVIRONMENTS)}")
