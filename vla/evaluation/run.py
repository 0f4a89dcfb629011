"""`vla rollout --suite`: a policy on a suite, episode by episode into a folder, with a record, films and a page at the end."""

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
from vla.policies.base import Policy
from vla.policies.load import load_policy, no_tokens
from vla.report.evaluation_page import write_evaluation
from vla.report.pairing import interleaved
from vla.report.provenance import provenance
from vla.report.records import EpisodeRecord, Key, Record
from vla.report.summary import summarise
from vla.sim.conventions import check_conventions
from vla.sim.engines import Engine, open_workers, worker_count
from vla.sim.episodes import Episode, Result
from vla.sim.record import Recorder
from vla.sim.registry import embodiment_of, find_task
from vla.sim.rollout import rollout
from vla.sim.suites import Suite

BATCH = 2
"""Rows of a local model's calls where nobody says otherwise. A number of its own, not the number of cores: it is part of what a
result is, and the same command should give the same result on another machine."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutOptions:
    """How a policy is rolled out.

    Attributes:
        record: folder to write the episodes to as robot data, with the observation and the action of every step.
        fresh: replace an earlier evaluation in `out`, and earlier data in `record`.
        videos: number of episodes, with the suite's first kind of instruction, to film into `out`.
        batch: rows per call of a local model, part of the result's identity; 0 is 2 with `out`, else one per worker.
        execute: actions executed of each chunk; 0 takes the contract's.
        workers: number of processes; 0 is one per core.
        engine: "ray" runs the episodes on a Ray cluster, with the same results.
        decode: refuse a policy whose contract has another `decode` (mode, median or local-mean). It does not change the policy.
    """

    record: str = ""
    fresh: bool = False
    videos: int = 0
    batch: int = 0
    execute: int = 0
    workers: int = 0
    engine: Engine = "local"
    decode: StatisticOption = ""


@dataclasses.dataclass(frozen=True)
class Evaluation(RolloutOptions):
    """A policy on a suite, into a folder.

    Attributes:
        policy: as the user names it.
        out: the folder.
        film: episodes to film besides `videos`.
    """

    policy: str
    suite: Suite
    out: str
    film: frozenset[Key] = frozenset()


def open_policy(name: str, batch: int, tasks: Sequence[str] = ("lift",), decode: str = "") -> Policy | None:
    """The policy of that name for the robots of these tasks; None is the scripted expert.

    Raises:
        UserError: a task has no expert, or the policy's contract decodes otherwise.
        ContractMismatch: it drives another robot, or this one by other conventions.
    """
    if name == "expert":
        if without := [task for task in tasks if not find_task(task).expert]:
            raise UserError(f"{', '.join(without)} has no scripted expert", "--policy expert", "give a policy, or random")
        if decode:
            raise no_tokens("expert")
        return None
    robots = dict(map(embodiment_of, tasks))
    policy = load_policy(name, batch, robots, decode=decode)
    for embodiment, ours in robots.items():
        check_conventions(embodiment, ours, policy.contract.embodiment(embodiment), name)
    return policy


def evaluate(options: Evaluation, progress: Callable[[Result | None, int], None] | None = None) -> Record:
    """Runs what the folder does not have yet, then writes results.json, report.html and the films' grid.

    Args:
        progress: told each result as it comes and how many are done; once at the beginning with no result.

    Raises:
        UserError: the folder holds another evaluation, the policy cannot be had or answers what it must not, or a worker failed
            over and over.
    """
    folder, suite = Path(options.out), options.suite
    batch = options.batch or BATCH
    policy = open_policy(options.policy, batch, suite.tasks, options.decode)
    identity = identity_of(suite, options.policy, policy, batch, options.execute)
    with Journal(folder, identity, options.fresh) as journal:
        if options.fresh:
            _clear(folder)
        if options.record and journal.episodes:
            raise UserError(
                "an evaluation that was begun cannot be recorded", options.out, "add --fresh, or choose another --out"
            )
        done = {episode.key for episode in journal.episodes}
        # One that is done but was not filmed is filmed now: it goes the same way again.
        todo = [e for e in _ordered(options) if e.key not in done or (e.video and not (folder / film_name(e.key)).is_file())]
        if progress:
            progress(None, len(done))

        def finished(result: Result) -> None:
            # The film first: an episode that is in the journal has its film.
            if result.frames:
                film(result, folder / film_name(result.key))
            if result.key not in done:
                journal.append(result)
            # A suite's frames would fill the memory.
            result.frames.clear()
            result.actions.clear()
            if progress:
                progress(result, len(journal.episodes))

        began = time.perf_counter()
        count = worker_count(options.engine, options.workers, len(todo))
        if todo:
            with (
                open_workers(options.engine, count) as workers,
                recording(options.record, options.policy, options.fresh) as recorder,
            ):
                rollout(policy, todo, workers, finished, options.execute, recorder=recorder)
        run = {"seconds": time.perf_counter() - began, "episodes": len(todo), "workers": count}
        by_key = {episode.key: episode for episode in journal.episodes}
        episodes = [by_key[episode.key] for episode in suite.all()]
        record = _record(options, identity, episodes, run)
        record.save(folder)
        write_evaluation(folder, record, film_list(folder, episodes))
    return record


def recording(folder: str, policy: str, overwrite: bool) -> contextlib.AbstractContextManager[Recorder | None]:
    """What writes the episodes as robot data; nothing where no folder is named."""
    return Recorder(folder, policy, overwrite) if folder else contextlib.nullcontext()


def _ordered(options: Evaluation) -> list[Episode]:
    """The episodes in the order of running, of which any beginning is a fair share."""
    suite = options.suite
    by_key = {episode.key: episode for episode in suite.all()}
    episodes = [by_key[key] for key in interleaved(list(by_key))]
    filmed = {e.key for e in [e for e in episodes if e.kind == suite.kinds[0]][: options.videos]} | options.film
    return [dataclasses.replace(e, video=e.key in filmed) for e in episodes]


def _record(options: Evaluation, identity: dict[str, Any], episodes: list[EpisodeRecord], run: dict[str, Any]) -> Record:
    """The record; all that another run of the same evaluation may have otherwise is in its `run`."""
    made = provenance()
    restarts = [f"{'/'.join(map(str, e.key))}: {why}" for e in episodes for why in e.more.get("restarts", ())]
    kept = [episode.without_run() for episode in episodes]
    more = {
        "about": options.suite.about,
        "weights": identity["weights"],
        "execute": options.execute,
        "horizon": options.suite.horizons,
        "summary": summarise(kept),
        "run": {
            **run,
            "episode_seconds": sum(episode.more.get("seconds", 0.0) for episode in episodes),
            "restarts": restarts,
            **{key: made[key] for key in ("command", "commit", "hardware")},
        },
    }
    same = {key: identity[key] for key in ("suite", "suite_hash", "policy", "contract", "batch", "versions")}
    return Record(**same, episodes=kept, more=more)


def _clear(folder: Path) -> None:
    """Removes what an earlier evaluation left; nothing else is touched."""
    for name in ("results.json", "report.html"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "videos", ignore_errors=True)
