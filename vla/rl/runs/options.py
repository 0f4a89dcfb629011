"""What a run of `vla rl fit` is told."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from jsonargparse import ArgumentParser

from vla.errors import UserError
from vla.promptable.representation import Settings
from vla.rl.envs.prompted_vec_env import Observe


@dataclasses.dataclass(frozen=True)
class EnvironmentOptions:
    """Where it learns.

    Attributes:
        name: a level of BabyAI, e.g. "BabyAI-GoToLocal-v0", or a task of the tabletop, e.g. "tabletop/lift".
        count: environments in step.
    """

    name: str = "BabyAI-GoToLocal-v0"
    count: int = 8

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"{self.count} environments", "environment.count", "one at least")


@dataclasses.dataclass(frozen=True)
class PoolerOptions:
    """The network between states and head; see `vla.promptable.pooler`."""

    kind: Literal["attention", "mean"] = "attention"
    width: int = 512
    heads: int = 2
    hidden: int = 512
    out: int = 128

    def __post_init__(self) -> None:
        if min(self.width, self.heads, self.hidden, self.out) < 1 or self.width % self.heads:
            raise UserError(f"{self}", "pooler", "positive numbers, the width a multiple of the heads")


@dataclasses.dataclass(frozen=True)
class CacheOptions:
    """Where states are kept that were computed before.

    Attributes:
        folder: on disk; "" keeps none there.
        memory_mb: in memory, MiB.
    """

    folder: str = ""
    memory_mb: float = 2048

    def __post_init__(self) -> None:
        if self.memory_mb < 0:
            raise UserError(f"memory_mb {self.memory_mb:g}", "cache", "0 or more")


@dataclasses.dataclass(frozen=True)
class RLOptions:
    """One run.

    Attributes:
        out: folder of the run: checkpoint, logs, results.json and export.
        condition: the run's name in comparisons.
        environment: where it learns.
        vlm: the frozen model: `tiny`, a folder, or a public model's name; "" where nothing asks one.
        random: give the model random weights instead of its own, drawn by this seed; -1 leaves them.
        prompt: asked of every observation; its fields are the environment's.
        representation: what of the model's states is kept.
        observe: what the head sees beside the non-visual state.
        pooler: between states and head.
        cache: of states.
        algorithm: ppo and sac of Stable-Baselines3 learn in an environment; bc (behaviour cloning) and iql learn from data.
        arguments: to it, e.g. {learning_rate: 1.0e-4, n_steps: 64}.
        data: folder of a robot data set, for bc and iql.
        chunk: actions that a head learned from data writes at a time, and that are carried out before it looks again.
        net: widths of the head's hidden layers (the paper: one of 128).
        steps: of all environments together; of the optimizer where it learns from data.
        checkpoint: steps between checkpoints; environments begin anew there, which makes a resumed run equal to an uninterrupted.
        seed: of everything drawn.
    """

    out: str
    condition: str = ""
    environment: EnvironmentOptions = dataclasses.field(default_factory=EnvironmentOptions)
    vlm: str = ""
    random: int = -1
    prompt: str = ""
    representation: Settings = dataclasses.field(default_factory=Settings)
    observe: list[Observe] = dataclasses.field(default_factory=lambda: ["states"])
    pooler: PoolerOptions = dataclasses.field(default_factory=PoolerOptions)
    cache: CacheOptions = dataclasses.field(default_factory=CacheOptions)
    algorithm: Literal["ppo", "sac", "bc", "iql"] = "ppo"
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    data: str = ""
    chunk: int = 2
    net: list[int] = dataclasses.field(default_factory=lambda: [128])
    steps: int = 50_000
    checkpoint: int = 8192
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.checkpoint, self.chunk) < 1:
            numbers = f"{self.steps} steps, checkpoints every {self.checkpoint}, chunks of {self.chunk}"
            raise UserError(numbers, "rl fit", "positive numbers")
        if self.seed < 0 or self.random < -1 or min(self.net, default=1) < 1:
            raise UserError(
                f"seed {self.seed}, random {self.random}, net {self.net}",
                "rl fit",
                "seed is 0 or more, random -1 (none) or more, no layer empty",
            )
        if "answer" in self.observe and not self.representation.tokens:
            raise UserError("the answer is observed, and none is written", "observe", "set representation.tokens, e.g. 8")
        if bool(self.data) != (self.algorithm in ("bc", "iql")):
            fix = "bc and iql learn from data, ppo and sac in an environment"
            raise UserError(f"algorithm {self.algorithm} with data {self.data!r}", "rl fit", fix)

    def to_dict(self) -> dict[str, Any]:
        """All options as JSON holds them."""
        return {**dataclasses.asdict(self), "representation": self.representation.identity()}

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share with the one it goes on from: all but where things lie and how long it runs."""
        return {k: v for k, v in self.to_dict().items() if k not in ("out", "cache", "steps")}


def read_options(argv: list[str]) -> RLOptions:
    """Options from configurations and the command line; what comes later wins."""
    parser = ArgumentParser(prog="vla rl fit", description="Trains an RL head on a frozen model's states.")
    parser.add_argument("-c", "--config", action="config", help="a configuration, e.g. configs/rl/babyai-task.yaml")
    parser.add_class_arguments(RLOptions)
    made = parser.instantiate_classes(parser.parse_args(argv))
    return RLOptions(**{name: value for name, value in vars(made).items() if name != "config"})
