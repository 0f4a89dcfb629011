"""Finds learners by name, and defines the `learner` part of a run's options."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from vla.errors import UserError
from vla.plugins import load_object, plugins
from vla.promptable.cache import Hits
from vla.promptable.head import Head
from vla.rl.learners.demonstrations import TransitionBatch

if TYPE_CHECKING:
    from vla.rl.learners.behaviour_cloning import CloningOptions

ONLINE = {"ppo": "vla.rl.learners.sb3:PPO", "sac": "vla.rl.learners.sb3:SAC"}
"""Learners in an environment: name -> class, imported when it is used."""
OFFLINE = {"bc": "vla.rl.learners.behaviour_cloning:BehaviourCloning", "iql": "vla.rl.learners.iql:IQL"}
"""Learners from a data set."""
GROUPS = ("vla.learners.online", "vla.learners.offline")
"""Entry points of these groups are further learners, by their names; `docs/extending.md` has one."""


@dataclasses.dataclass(frozen=True)
class LearnerOptions:
    """The learner and its arguments.

    Attributes:
        name: ppo and sac, of Stable-Baselines3, learn in an environment; bc (behaviour cloning) and iql learn from data.
        arguments: arguments of the learner, e.g. {learning_rate: 1.0e-4, n_steps: 64}.
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
    """A learner in environments. Its log is open from `log_to` to `close_log`.

    Attributes:
        resumes: whether the learner can resume from a checkpoint.
        steps: number of steps so far, summed over the environments.
        policy: the policy that learns.
        episodes: [step, return, length, success] of each finished episode.
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
        """Takes at least `steps` steps, from new episodes; random draws depend only on the seed and the step."""

    def close_log(self) -> None: ...

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint holds."""
        ...

    def load(self, saved: dict[str, Any]) -> None:
        """Restores what `state` returned."""


class OfflineLearner(Protocol):
    """A learner from a data set.

    Attributes:
        Options: class of its arguments.
        resumes: whether the learner can resume from a checkpoint.
        ahead: whether batches must include the observation after a chunk.
        networks: all networks; "actor" is the one that acts.
        optimizer: optimizer of all networks.
    """

    Options: type[CloningOptions]
    resumes: bool
    ahead: bool
    networks: torch.nn.ModuleDict
    optimizer: torch.optim.Optimizer

    def __init__(self, make: Callable[[int, int], Head], size: int, options: CloningOptions): ...

    def update(self, batch: TransitionBatch) -> dict[str, float]:
        """Takes one step and returns what to log."""
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
    """Returns whether the learner of that name can resume from a checkpoint."""
    return (online_learner(name) if name in online_learners() else offline_learner(name)).resumes
