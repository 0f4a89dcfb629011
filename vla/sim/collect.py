"""Collecting data in worker processes: each simulator has its demonstrations made there; the parent writes shards and the card.

What is written depends on the seed and the amounts alone, not on the number of workers.
"""

from __future__ import annotations

import collections
import dataclasses
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from vla.datasets.card import DatasetCard
from vla.datasets.shards import ShardWriter, check_empty
from vla.datasets.statistics import space_with_statistics
from vla.errors import UserError
from vla.folders import check_writable
from vla.sim.collect_options import Collect, Report
from vla.sim.registry import embodiment_of, find_task, simulator_of

T = TypeVar("T")
StepDescription = dict[str, object]
"""The `json` member of a step."""


@dataclasses.dataclass
class Attempt:
    """One attempt of the expert, as a worker process returns it.

    Attributes:
        failure: "" for success, else its class.
        steps: per step the encoded members of its sample (images, action.npy, state.npy) and its description, in which only the
            episode's number is left to be said.
        actions: float32 [T, A].
        states: float32 [T, S].
    """

    failure: str
    steps: list[tuple[dict[str, bytes], StepDescription]]
    actions: np.ndarray
    states: np.ndarray


def check(options: Collect) -> None:
    """Checks everything about the options that can be known before anything is collected.

    Raises:
        UserError: a number is out of its range, no simulator collects this, nothing can be written into the folder, or it holds
            data that are not to be replaced.
    """
    for name, least in (
        ("episodes", 1),
        ("images", 1),
        ("poses", 1),
        ("objects", 0),
        ("seed", 0),
        ("workers", 0),
        ("noise", 0),
        ("batch", 0),
    ):
        if getattr(options, name) < least:
            raise UserError(f"{name} {getattr(options, name)}", "collect", f"give at least {least}")
    for name in ("clean", "excursions", "beta", "step_questions"):
        if not 0 <= getattr(options, name) <= 1:
            raise UserError(f"{name} {getattr(options, name)}", "collect", "give a share from 0 to 1")
    simulator = simulator_of(options.task)
    if options.task in simulator.tasks and not simulator.tasks[options.task].expert and not options.expert:
        raise UserError(f"{options.task} has no scripted expert", "collect", "nobody can demonstrate it here")
    if options.wide and options.task not in simulator.questions:
        raise UserError(f"{options.task} with --wide", "collect", "leave it out: only questions have the wide world")
    if options.step_questions and options.task in simulator.questions:
        raise UserError(f"{options.task} with --step_questions", "collect", "leave it out: it is for demonstrations")
    for name in () if options.policy else ("beta", "expert"):
        if getattr(options, name):
            raise UserError(f"--{name} without --policy", "collect", "name the policy that acts, and that the expert corrects")
    for name in ("sizes", "every_task", "destinations", "step_questions") if options.policy else ():
        if getattr(options, name):
            raise UserError(
                f"--policy with --{name}", "collect", "leave one of them out: only the expert's demonstrations have it"
            )
    simulator.check_collect(options)
    if options.policy and options.task not in simulator.tasks:
        raise UserError(f"a policy does not act for {options.task}", "--policy", f"one of: {', '.join(simulator.tasks)}")
    check_writable(options.out)
    if not options.policy:  # whose round may go on
        check_empty(options.out, options.overwrite)


def collect(options: Collect, report: Report | None = None) -> dict[str, int]:
    """Collects what the options say and writes it.

    Returns:
        counts: episodes, steps and discarded attempts, or images.

    Raises:
        UserError: see `check`; or too many attempts fail.
    """
    check(options)
    return simulator_of(options.task).collect(options, report or (lambda *_: None))


def collect_with_progress(options: Collect) -> dict[str, int]:
    """Collects, with a progress bar."""
    check(options)  # before there is a bar
    asking = options.task in simulator_of(options.task).questions
    total, unit = (options.images, "image") if asking else (options.episodes, "episode")
    with tqdm(total=total, desc=f"collect {options.task}", unit=unit) as bar:

        def report(done: int, _: int, word: str) -> None:
            bar.update(done - bar.n)
            bar.set_postfix_str(word)

        return collect(options, report)


def map_in_processes(
    function: Callable[[int], T], items: range, initializer: Callable[[Collect], None], options: Collect
) -> Iterator[T]:
    """The function's results in order, computed in spawned processes that each ran the initializer with the options."""
    workers = min(options.workers or multiprocessing.cpu_count(), len(items))
    with multiprocessing.get_context("spawn").Pool(workers, _initialize, (initializer, options)) as pool:
        yield from pool.imap(function, items)


def _initialize(initializer: Callable[[Collect], None], options: Collect) -> None:
    # An interrupt is for the parent, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    initializer(options)


def write_demonstrations(
    options: Collect,
    attempts: Callable[[int], list[Attempt]],
    initializer: Callable[[Collect], None],
    name: str,
    conventions: Mapping[str, str],
    report: Report,
) -> dict[str, int]:
    """Writes `options.episodes` successful attempts and their card.

    Args:
        attempts: makes those at scene number i, in a worker process that ran the initializer.
        name: of the data set.
        conventions: for the card.

    Returns:
        counts of episodes, steps and discarded attempts.

    Raises:
        UserError: too few of the attempts succeed.
    """
    failures: collections.Counter[str] = collections.Counter()
    all_actions, all_states, written = [], [], 0
    limit = 4 * options.episodes + 8
    with ShardWriter(options.out, overwrite=options.overwrite) as writer:
        for made in map_in_processes(attempts, range(limit), initializer, options):
            for attempt in made:
                if written == options.episodes:
                    break
                failures[attempt.failure] += 1
                if attempt.failure:
                    continue
                for number, (members, description) in enumerate(attempt.steps):
                    writer.write(f"e{written:06d}_s{number:04d}", {**members, "json": {"episode": written, **description}})
                all_actions.append(attempt.actions)
                all_states.append(attempt.states)
                written += 1
            report(written, options.episodes, f"{sum(failures.values()) - failures['']} failed attempts discarded")
            if written == options.episodes:
                break
    if written < options.episodes:
        raise UserError(
            f"only {written} of {options.episodes} episodes succeeded: {dict(failures)}", options.out, "lower the noise"
        )
    actions, states = np.concatenate(all_actions), np.concatenate(all_states)
    embodiment, spec = embodiment_of(options.task)
    DatasetCard(
        name=name,
        kind="robot",
        embodiment=embodiment,
        spec=dataclasses.replace(
            spec, action=space_with_statistics(spec.action, actions), state=space_with_statistics(spec.state, states)
        ),
        counts={"episodes": written, "steps": len(actions), "discarded": sum(failures.values()) - written},
        shards=writer.shards,
        conventions=dict(conventions),
        wordings=list(find_task(options.task).wordings),
        generator=generator(options),
    ).save(options.out)
    return {"episodes": written, "steps": len(actions), "discarded": sum(failures.values()) - written}


def generator(options: Collect) -> dict[str, object]:
    """The card's entry on how the data was made. Training rolls out the task named in `task`."""
    # An option that came later is left out at its default, so that cards of the same data stay the same.
    later = ("numbers", "wide", "every_task", "destinations", "step_questions", "policy", "expert", "beta", "batch")
    left_out = ("out", "workers", "overwrite", *(name for name in later if not getattr(options, name)))
    chosen = {key: value for key, value in dataclasses.asdict(options).items() if key not in left_out}
    return {"command": f"vla collect --task {options.task}", **chosen}
