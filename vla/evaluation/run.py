"""`vla rollout --suite`: evaluates a policy on a suite and writes episodes, a record, films and a page into a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vla.contract import StatisticOption
from vla.errors import UserError
from vla.evaluation.films import film, film_list, film_name
from vla.evaluation.identity import identity_of
from vla.evaluation.journal import Journal
from vla.evaluation.ways import check_robot
from vla.policies.base import DTypeOption, Policy
from vla.policies.load import load_policy, no_tokens, stated_contract
from vla.report.evaluation_page import write_evaluation
from vla.report.pairing import interleaved
from vla.report.provenance import provenance
from vla.report.records import EpisodeRecord, Key, Record
from vla.report.summary import summarise
from vla.sim.conventions import adapted, check_conventions
from vla.sim.engines import Engine, open_workers, worker_count
from vla.sim.episodes import Episode, Result
from vla.sim.record import Recorder
from vla.sim.registry import embodiment_of, find_task, simulator_of
from vla.sim.rollout import rollout
from vla.sim.suites import Suite

BATCH = 2
"""Default number of rows per call of a local model. It is fixed, not the number of cores: results depend on it, and the same
command should give the same result on every machine."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutOptions:
    """How a policy is rolled out.

    Attributes:
        record: folder to which the episodes are written as robot data, with observation and action of every step.
        fresh: replace an earlier evaluation in `out`, and the content of `record`.
        videos: number of episodes, with the suite's first kind of instruction, to film into `out`.
        batch: rows per call of a local model, part of the result's identity; 0 means 2 with `out`, else one per worker.
        execute: actions executed of each chunk; 0 takes the contract's number.
        workers: number of worker processes; 0 means one per core.
        engine: "ray" spreads the episodes over a Ray cluster; results are the same.
        decode: refuse a policy whose contract has another `decode` (mode, median or local-mean); it changes no policy.
        dtype: in which a local model computes, part of the result's identity: float32 if it is not given.
    """

    record: str = ""
    fresh: bool = False
    videos: int = 0
    batch: int = 0
    execute: int = 0
    workers: int = 0
    engine: Engine = "local"
    decode: StatisticOption = ""
    dtype: DTypeOption = ""


@dataclasses.dataclass(frozen=True)
class Evaluation(RolloutOptions):
    """The options of an evaluation of a policy on a suite.

    Attributes:
        policy: the policy's name, as the user gave it.
        suite: the suite.
        out: folder of the evaluation.
        film: keys of episodes to film besides `videos`.
    """

    policy: str
    suite: Suite
    out: str
    film: frozenset[Key] = frozenset()


def open_policy(
    name: str,
    batch: int,
    tasks: Sequence[str] = ("lift",),
    decode: str = "",
    execute: int = 0,
    probabilities: bool = False,
    dtype: DTypeOption = "",
) -> Policy | None:
    """Loads the policy of that name for the robots of these tasks; returns None for the scripted expert. See `load_policy`.

    Raises:
        UserError: a task has no expert, no simulator knows the policy's robot, or its contract has another `decode` or chunks
            shorter than `execute`.
        ContractMismatch: the policy is for another robot, or uses other conventions.
    """
    if name == "expert":
        if without := [task for task in tasks if not find_task(task).expert]:
            raise UserError(f"{', '.join(without)} has no scripted expert", "--policy expert", "give a policy, or `random`")
        if decode or dtype:
            raise no_tokens("expert") if decode else UserError("the expert has no type", "--policy expert", "leave out --dtype")
        return None
    robots = dict(map(embodiment_of, tasks))
    if contract := stated_contract(name):
        # Before the weights are loaded.
        check_robot(contract, name, list(robots))
    policy = load_policy(name, batch, robots, probabilities, decode, execute, dtype)
    check_robot(policy.contract, name, list(robots))
    adapting = {embodiment_of(task)[0] for task in tasks if simulator_of(task).adapts}
    for embodiment, ours in robots.items():
        theirs = policy.contract.embodiment(embodiment)
        check_conventions(embodiment, adapted(ours, theirs) if embodiment in adapting else ours, theirs, name)
    return policy


def seen_by(policy: Policy | None, episodes: Sequence[Episode]) -> list[Episode]:
    """The episodes with the cameras that the policy's contract says, where their simulator adapts its images to them."""
    if policy is None or not getattr(policy, "says_contract", True):
        return list(episodes)

    def seen(episode: Episode) -> Episode:
        simulator = simulator_of(episode.task)
        if not simulator.adapts:
            return episode
        robot = simulator.embodiment(episode.task)[0]
        return dataclasses.replace(episode, cameras=policy.contract.embodiment(robot).cameras)

    return [seen(episode) for episode in episodes]


def evaluate(options: Evaluation, progress: Callable[[Result | None, int], None] | None = None) -> Record:
    """Runs the episodes that the folder lacks, then writes results.json, report.html and the films' grid.

    Args:
        progress: called with each result and the number of finished episodes; first with None before any episode runs.

    Raises:
        UserError: the folder holds another evaluation, the policy cannot be loaded or gives an invalid answer, or a worker
            failed repeatedly.
    """
    folder, suite = Path(options.out), options.suite
    batch = options.batch or BATCH
    policy = open_policy(options.policy, batch, suite.tasks, options.decode, options.execute, dtype=options.dtype)
    identity = identity_of(suite, options.policy, policy, options.execute)
    with Journal(folder, identity, options.fresh) as journal:
        if options.fresh:
            _clear(folder)
        if options.record and journal.episodes:
            raise UserError(
                "an evaluation that has begun cannot be recorded any more", options.out, "add --fresh, or choose another --out"
            )
        ordered = seen_by(policy, _ordered(options))
        finished = {episode.key for episode in journal.episodes} & {episode.key for episode in ordered}
        # A finished episode that lacks its film is run again: it takes the same course.
        todo = [e for e in ordered if e.key not in finished or (e.video and not (folder / film_name(e.key)).is_file())]
        if progress:
            progress(None, len(finished))

        def finish(result: Result) -> None:
            # The film comes first, so that every filmed episode in the journal has its film.
            if result.frames:
                film(result, folder / film_name(result.key))
            if result.key not in finished:
                journal.append(result)
                finished.add(result.key)
            # The frames of a whole suite would fill the memory.
            result.frames.clear()
            result.actions.clear()
            if progress:
                progress(result, len(finished))

        began = time.perf_counter()
        count = worker_count(options.engine, options.workers, len(todo))
        if todo:
            with (
                open_workers(options.engine, count) as workers,
                recording(options.record, options.policy, options.fresh) as recorder,
            ):
                rollout(policy, todo, workers, finish, options.execute, recorder=recorder)
        run = {"seconds": time.perf_counter() - began, "episodes": len(todo), "workers": count}
        by_key = {episode.key: episode for episode in journal.episodes}
        episodes = [by_key[episode.key] for episode in suite.all()]
        record = _record(options, identity, episodes, run)
        record.save(folder)
        write_evaluation(folder, record, film_list(folder, episodes))
    return record


def recording(folder: str, policy: str, overwrite: bool) -> contextlib.AbstractContextManager[Recorder | None]:
    """Returns a recorder of robot data as a context manager; it yields None if no folder is given."""
    return Recorder(folder, policy, overwrite) if folder else contextlib.nullcontext()


def _ordered(options: Evaluation) -> list[Episode]:
    """Returns the episodes in the order of running (see `interleaved`), with those to film marked."""
    suite = options.suite
    by_key = {episode.key: episode for episode in suite.all()}
    episodes = [by_key[key] for key in interleaved(list(by_key))]
    filmed = {e.key for e in [e for e in episodes if e.kind == suite.kinds[0]][: options.videos]} | options.film
    return [dataclasses.replace(e, video=e.key in filmed) for e in episodes]


def _record(options: Evaluation, identity: dict[str, Any], episodes: list[EpisodeRecord], run: dict[str, Any]) -> Record:
    """Makes the record; whatever may differ in another run of the same evaluation is in its `run`."""
    origin = provenance()
    restarts = [f"{'/'.join(map(str, e.key))}: {why}" for e in episodes for why in e.more.get("restarts", ())]
    kept = [episode.without_run() for episode in episodes]
    more = {
        "about": options.suite.about,
        **{key: identity[key] for key in ("weights", "execute", "protocol", "contract_settings")},
        **({"conditions": conditions} if (conditions := conditions_of(options.suite)) else {}),
        "scenes": options.suite.episodes,
        "horizon": options.suite.horizons,
        "summary": summarise(kept),
        "run": {
            **run,
            "episode_seconds": sum(episode.more.get("seconds", 0.0) for episode in episodes),
            "restarts": restarts,
            **{key: origin[key] for key in ("command", "commit", "hardware")},
        },
    }
    same = {key: identity[key] for key in ("suite", "suite_hash", "policy", "contract", "batch", "versions")}
    return Record(**same, episodes=kept, more=more)


def conditions_of(suite: Suite) -> dict[str, dict[str, str]]:
    """How a suite's episodes are run, by variation, where the simulator says it: the protocol's name and hash, for instance."""
    simulator = simulator_of(suite.tasks[0])
    return {v.name: conditions for v in suite.variations if (conditions := simulator.conditions(v))}


def _clear(folder: Path) -> None:
    """Removes the files of an earlier evaluation and nothing else."""
    for name in ("results.json", "report.html"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "videos", ignore_errors=True)
