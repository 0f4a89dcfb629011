"""A run's options, grouped into parts, and the form in which files keep them."""

from __future__ import annotations

import dataclasses

from vla.errors import UserError
from vla.promptable.representation import Settings
from vla.rl.envs.observation import EnvironmentObservation, ObservationOptions
from vla.rl.envs.registry import EnvironmentOptions
from vla.rl.learners.registry import LearnerOptions
from vla.rl.policies.options import PolicyOptions

NO_MODEL = {
    "vlm": "",
    "random": -1,
    "prompt": "",
    "representation": Settings().identity(),
    "cache": {"folder": "", "memory_mb": 2048},
}
"""What files hold about the frozen model if a run has none."""


@dataclasses.dataclass(frozen=True)
class BudgetOptions:
    """How long a run learns.

    Attributes:
        steps: steps summed over the environments; optimizer steps if it learns from data.
        checkpoint: steps between checkpoints. Environments reset at each, so that a resumed run equals an uninterrupted one.
    """

    steps: int = 50_000
    checkpoint: int = 8192

    def __post_init__(self) -> None:
        if min(self.steps, self.checkpoint) < 1:
            raise UserError(f"{self.steps} steps and checkpoints every {self.checkpoint}", "budget", "give positive numbers")


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """The options of one run.

    Attributes:
        out: folder of the run, for checkpoint, logs, results.json and export.
        condition: the run's name in comparisons.
        environment: where the policy acts.
        observation: what the policy observes; a class and its arguments.
        policy: the network that learns.
        learner: how it learns.
        budget: how long it learns.
        seed: random seed.
    """

    out: str
    condition: str = ""
    environment: EnvironmentOptions = dataclasses.field(default_factory=EnvironmentOptions)
    observation: ObservationOptions = dataclasses.field(default_factory=EnvironmentObservation)
    policy: PolicyOptions = dataclasses.field(default_factory=PolicyOptions)
    learner: LearnerOptions = dataclasses.field(default_factory=LearnerOptions)
    budget: BudgetOptions = dataclasses.field(default_factory=BudgetOptions)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"seed {self.seed}", "seed", "give a seed of 0 or more")

    def with_steps(self, steps: int) -> RunOptions:
        """Returns the same run with another number of steps."""
        return dataclasses.replace(self, budget=dataclasses.replace(self.budget, steps=steps))

    def to_dict(self) -> dict[str, object]:
        """Returns all options as files keep them: flat, under names older than the parts, because recorded runs have them."""
        observation = {**NO_MODEL, **self.observation.saved()}
        model = ("vlm", "random", "prompt", "representation", "observe")
        return {
            "out": self.out,
            "condition": self.condition,
            "environment": dataclasses.asdict(self.environment),
            **{name: observation.pop(name) for name in model},
            "pooler": dataclasses.asdict(self.policy.pooler),
            **observation,
            "algorithm": self.learner.name,
            "arguments": self.learner.arguments,
            "data": self.learner.data,
            "chunk": self.policy.chunk,
            "net": self.policy.net,
            **dataclasses.asdict(self.budget),
            "seed": self.seed,
        }

    def identity(self) -> dict[str, object]:
        """Returns what a resumed run must share with its checkpoint: everything except paths and the number of steps."""
        return {k: v for k, v in self.to_dict().items() if k not in ("out", "cache", "steps")}
