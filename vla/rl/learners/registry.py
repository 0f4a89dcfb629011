"""Learners by name, and the `learner` part of a run's options."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from vla.errors import UserError
from vla.plugins import load_object, plugins
from vla.promptable.cache import Hits
from vla.promptable.head import Head
from vla.rl.learners.demonstrations import Batch

ONLINE = {"ppo": "vla.rl.learners.sb3:PPO", "sac": "vla.rl.learners.sb3:SAC"}
"""What learns in an environment: name -> class, imported when it is used."""
OFFLINE = {"bc": "vla.rl.learners.behaviour_cloning:BehaviourCloning", "iql": "vla.rl.learners.iql:IQL"}
"""What learns from a data set."""
GROUPS = ("vla.learners.online", "vla.learners.offline")
"""Entry points of these groups are further learners, by their names; `docs/extending.md` has one."""


@dataclasses.dataclass(frozen=True)
class LearnerOptions:
    """How it learns.

    Attributes:
        name: ppo and sac of Stable-Baselines3 learn in an environment; bc (behaviour cloning) and iql learn from data.
        arguments: to it, e.g. {learning_rate: 1.0e-4, n_steps: 64}.
        data: folder of a robot data set, for bc and iql.
    """

    name: str = "ppo"
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    data: str = ""

    def __post_init__(self) -> None:
        online, offline = online_learners(), offline_learners()
        if self.name not in {**online, **offline}:
            raise UserError(f"no learner {self.name!r}", "learner.name", f"one of {', '.join([*online, *offline])}")
        if bool(self.data) != (self.name in offline):
            fix = f"{' and '.join(offline)} learn from data, {' and '.join(online)} in an environment"
            raise UserError(f"{self.name} with data {self.data!r}", "learner", fix)


class OnlineLearner(Protocol):
    """What learns in environments. Its log is open from `log_to` to `close_log`.

    Attributes:
        resumes: whether a checkpoint is enough to go on from.
        steps: taken so far, of all environments together.
        policy: what learns.
        episodes: of each that ended [step, return, length, success].
    """

    resumes: bool
    episodes: list[list[float]]

    @property
    def steps(self) -> int: ...

    @property
    def policy(self) -> BasePolicy: ...

    def __init__(self, environments: VecEnv, policy: dict[str, Any], arguments: dict[str, Any], seed: int): ...

    def log_to(self, folder: Path) -> None: ...

    def learn(self, steps: int, hits: Hits | None) -> None:
        """Takes at least so many steps, from new episodes; what is drawn depends on seed and step alone."""

    def close_log(self) -> None: ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        ...

    def load(self, saved: dict[str, Any]) -> None:
        """Goes on from what `state` gave."""


class OfflineLearner(Protocol):
    """What learns from a data set.

    Attributes:
        Options: class of its arguments; they have `batch`.
        resumes: whether a checkpoint is enough to go on from.
        ahead: whether batches must hold what is seen after a chunk.
        networks: all that learns; "actor" is what acts.
        optimizer: of all of it.
    """

    Options: type
    resumes: bool
    ahead: bool
    networks: torch.nn.ModuleDict
    optimizer: torch.optim.Optimizer

    def __init__(self, make: Callable[[int, int], Head], size: int, options: Any): ...

    def update(self, batch: Batch) -> dict[str, float]:
        """One step; what is worth logging."""
        ...


def online_learners() -> dict[str, str]:
    """Every learner that learns in an environment: name -> "module:class"."""
    return {**plugins(GROUPS[0]), **ONLINE}


def offline_learners() -> dict[str, str]:
    """Every learner that learns from a data set: name -> "module:class"."""
    return {**plugins(GROUPS[1]), **OFFLINE}


def online_learner(name: str) -> type[OnlineLearner]:
    return load_object(online_learners()[name])


def offline_learner(name: str) -> type[OfflineLearner]:
    return load_object(offline_learners()[name])


def resumes(name: str) -> bool:
    """Whether a checkpoint is enough for the learner of that name to go on."""
    return (online_learner(name) if name in online_learners() else offline_learner(name)).resumes
