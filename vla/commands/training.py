"""`vla fit | validate | test | predict`: Lightning's command line, with rollouts and data from the simulator."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from vla.commands.collect import collected
from vla.commands.configs import with_paths
from vla.commands.replaced import say_what_is_replaced
from vla.commands.training_help import asks_for_all, requested
from vla.datasets.card import DatasetCard
from vla.errors import UserError
from vla.evaluation.run import seen_by
from vla.policies.base import Policy
from vla.report.summary import rates
from vla.sim.collect import check, generator
from vla.sim.collect_options import Collect
from vla.sim.conventions import adapted, check_conventions
from vla.sim.episodes import Episode
from vla.sim.registry import embodiment_of, find_task, simulator_of, task_for, task_names
from vla.sim.rollout import rollout as run_rollout
from vla.sim.variation import SEEN, Variation
from vla.sim.workers import Workers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRAINING_ROLLOUTS = 500_000
"""First seed of rollouts during training, so that choosing a checkpoint uses none of the scenes of evaluations."""


def new_tokenizer() -> PreTrainedTokenizerBase:
    """Trains a tokenizer on the words of the tabletop's instructions and questions."""
    from vla.contract import PolicyContract
    from vla.models.tiny.text import train_tokenizer
    from vla.sim.tabletop.questions import vocabulary_corpus

    words = vocabulary_corpus()
    prompts = [PolicyContract.prompt.format(instruction=w, state="") for w in words]
    return train_tokenizer(prompts + [PolicyContract.question.format(question=w) for w in words] + [f" {w}" for w in words])


class Evaluator:
    """Rolls out fixed episodes during training. Its workers start at the first use and are kept.

    Called with the cards of the data, it returns a function that rolls a policy out in their tasks, in turn, in scenes like
    theirs. A card without a task stands for the first task of its embodiment.
    """

    def __init__(self) -> None:
        self.workers: Workers | None = None

    def __call__(self, cards: list[DatasetCard]) -> Callable[[Policy, int], dict[str, float]]:
        """Raises UserError if no simulator has the data's embodiment, ContractMismatch if its conventions differ."""
        robots = [card for card in cards if card.kind == "robot"]
        tasks = {task: card for card in robots if (task := task_for(card.embodiment, card.task))}
        if not tasks:
            names = ", ".join(sorted({card.embodiment for card in robots})) or "none, there is no robot data"
            known = ", ".join(dict.fromkeys(embodiment_of(task)[0] for task in task_names()))
            raise UserError(
                f"no simulator has the data's embodiment ({names})",
                "rollouts during training",
                f"leave out RolloutCallback, or use data of {known}",
            )
        for task, card in tasks.items():
            simulator, (name, spec) = simulator_of(task), embodiment_of(task)
            spec = adapted(spec, card.spec) if simulator.adapts else spec
            check_conventions(name, spec, card.spec, "rollouts during training")
            if simulator.packages:
                simulator.packages.require()
        return functools.partial(self._roll_out, [Episode(0, task=task, variation=_scenes(card)) for task, card in tasks.items()])

    def _roll_out(self, kinds: list[Episode], policy: Policy, episodes: int) -> dict[str, float]:
        self.workers = self.workers or Workers()
        chosen = [kinds[i % len(kinds)] for i in range(episodes)]
        episode_list = [dataclasses.replace(kind, seed=_seed(kind.task, i)) for i, kind in enumerate(chosen)]
        results = run_rollout(policy, seen_by(policy, episode_list), self.workers)
        return {name: rate["rate"] for name, rate in rates(results).items()}

    def close(self) -> None:
        if self.workers is not None:
            self.workers.close()


def _scenes(card: DatasetCard) -> Variation:
    """Scenes like those of the data."""
    if not card.generator.get("every_task"):
        return SEEN
    return simulator_of(card.task).read_variation("every task", {"every_task": True}, "rollouts during training")


def _seed(task: str, number: int) -> int:
    """The seed of a rollout during training; a task with few scenes has no others than those of its evaluation."""
    scenes = find_task(task).scenes
    return number % scenes if scenes else TRAINING_ROLLOUTS + number


def planned_card(options: Collect) -> DatasetCard:
    """The card of data that can be collected with these options, without statistics.

    Raises:
        UserError: they cannot be collected.
    """
    check(options)
    name, spec = embodiment_of(options.task)
    kind = "questions" if options.task in simulator_of(options.task).questions else "robot"
    return DatasetCard(options.task, kind, name, spec, generator=generator(options))


def train(argv: list[str]) -> int:
    """Runs one of Lightning's subcommands."""
    if text := requested(argv):
        print(text)
        return 0
    if asks_for_all(argv):
        argv = [argv[0], "--help"]
    from vla.training.cli import Hooks
    from vla.training.cli import main as lightning

    evaluator, argv = Evaluator(), with_paths(argv)
    say_what_is_replaced(argv)
    try:
        lightning(argv, Hooks(evaluator, new_tokenizer, collected, Collect, planned_card))
    finally:
        evaluator.close()
    return 0
