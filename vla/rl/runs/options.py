"""A run's options, composed of parts; and the form in which files keep them."""

from __future__ import annotations

import dataclasses

from vla.errors import UserError
from vla.promptable.representation import Settings
from vla.rl.envs.observation import EnvironmentObservation, Observation
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
"""What files say of the frozen model in a run that has none."""


@dataclasses.dataclass(frozen=True)
class BudgetOptions:
    """How long it learns.

    Attributes:
        steps: steps of all environments together, or of the optimizer when learning from data.
        checkpoint: steps between checkpoints. Environments are reset there, so that a resumed run equals an uninterrupted one.
    """

    steps: int = 50_000
    checkpoint: int = 8192

    def __post_init__(self) -> None:
        if min(self.steps, self.checkpoint) < 1:
            raise UserError(f"{self.steps} steps, checkpoints every {self.checkpoint}", "budget", "positive numbers")


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """One run.

    Attributes:
        out: folder of the run, for checkpoint, logs, results.json and export.
        condition: the run's name in comparisons.
        environment: the environment.
        observation: what the policy sees; a class and its arguments.
        policy: the network that learns.
        learner: the learning algorithm.
        budget: the length of training.
        seed: random seed.
    """

    out: str
    condition: str = ""
    environment: EnvironmentOptions = dataclasses.field(default_factory=EnvironmentOptions)
    observation: Observation = dataclasses.field(default_factory=EnvironmentObservation)
    policy: PolicyOptions = dataclasses.field(default_factory=PolicyOptions)
    learner: LearnerOptions = dataclasses.field(default_factory=LearnerOptions)
    budget: BudgetOptions = dataclasses.field(default_factory=BudgetOptions)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"seed {self.seed}", "seed", "seed is 0 or more")

    def lasting(self, steps: int) -> RunOptions:
        """The same run with so many steps."""
        return dataclasses.replace(self, budget=dataclasses.replace(self.budget, steps=steps))

    def to_dict(self) -> dict[str, object]:
        """All options as files keep them: in one level, by names older than the parts. Recorded runs are compared by them."""
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
        """What a resumed run must share with the one it goes on from: all but where things lie and how long it runs."""
        return {k: v for k, v in self.to_dict().items() if k not in ("out", "cache", "steps")}
