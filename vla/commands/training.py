"""`vla fit | validate | test | predict`: Lightning's command line, with what it gets from the simulator."""

from __future__ import annotations

from typing import Any

from vla.commands.configs import with_paths
from vla.policies.base import Policy
from vla.report.summary import rates
from vla.sim.collect import collect_with_progress
from vla.sim.collect_options import Collect
from vla.sim.episodes import Episode
from vla.sim.rollout import rollout as run_rollout
from vla.sim.workers import Workers

TRAINING_ROLLOUTS = 500_000
"""Seeds of rollouts during training: choosing a checkpoint by them leaves evaluation's scenes unseen."""


def new_tokenizer() -> Any:
    """A tokenizer that knows the words of the simulator's instructions and questions."""
    from vla.contract import PolicyContract
    from vla.models.tiny.text import train_tokenizer
    from vla.sim.tabletop.questions import vocabulary_corpus

    words = vocabulary_corpus()
    prompts = [PolicyContract.prompt.format(instruction=w, state="") for w in words]
    return train_tokenizer(prompts + [PolicyContract.question.format(question=w) for w in words] + [f" {w}" for w in words])


class Evaluator:
    """Rolls out fixed episodes during training; its workers start at the first use and stay."""

    def __init__(self) -> None:
        self.workers: Workers | None = None

    def __call__(self, policy: Policy, episodes: int) -> dict[str, float]:
        self.workers = self.workers or Workers()
        results = run_rollout(policy, [Episode(TRAINING_ROLLOUTS + i) for i in range(episodes)], self.workers)
        return {name: rate["rate"] for name, rate in rates(results).items()}

    def close(self) -> None:
        if self.workers is not None:
            self.workers.close()


def train(argv: list[str]) -> int:
    """Runs one of Lightning's subcommands."""
    from vla.training.cli import main as lightning

    evaluator = Evaluator()
    try:
        lightning(with_paths(argv), evaluate=evaluator, tokenizer=new_tokenizer, collect=collect_with_progress, options=Collect)
    finally:
        evaluator.close()
    return 0
