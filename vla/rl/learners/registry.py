"""Learners by name, and the `learner` part of a run's options."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from vla.errors import UserError

ONLINE = {"ppo": "vla.rl.learners.sb3:PPO", "sac": "vla.rl.learners.sb3:SAC"}
"""What learns in an environment: name -> class, imported when it is used."""
OFFLINE = {"bc": "vla.rl.learners.behaviour_cloning:BehaviourCloning", "iql": "vla.rl.learners.iql:IQL"}
"""What learns from a data set."""


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
        if self.name not in {**ONLINE, **OFFLINE}:
            raise UserError(f"no learner {self.name!r}", "learner.name", f"one of {', '.join([*ONLINE, *OFFLINE])}")
        if bool(self.data) != (self.name in OFFLINE):
            fix = f"{' and '.join(OFFLINE)} learn from data, {' and '.join(ONLINE)} in an environment"
            raise UserError(f"{self.name} with data {self.data!r}", "learner", fix)


def learner_class(name: str) -> Any:
    """The class of that name: of an online learner see `vla.rl.learners.sb3`, of an offline one `BehaviourCloning`."""
    module, _, attribute = {**ONLINE, **OFFLINE}[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
