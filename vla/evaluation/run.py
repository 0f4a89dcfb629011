"""`vla rollout --suite`: a policy on a suite, episode by episode into a folder, with a record, films and a page at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vla.errors import UserError
from vla.evaluation.films import film, film_grid
from vla.policies.base import Policy
from vla.policies.load import load_policy, no_tokens
from vla.report.evaluation_page import write_evaluation
from vla.report.intervals import Rate
from vla.report.pairing import interleaved
from vla.report.provenance import provenance
from vla.report.records import EpisodeRecord, Key, Record
from vla.report.summary import summarise
from vla.sim.conventions import check_conventions
from vla.sim.engines import Engine, open_workers, worker_count
from vla.sim.episodes import Episode, Result
from vla.sim.journal import Journal
from vla.sim.record import Recorder
from vla.sim.registry import embodiment_of, find_task
from vla.sim.rollout import rollout
from vla.sim.suites import Suite

BATCH = 2
"""Rows of a local model's calls where nobody says otherwise. A number of its own, not the number of cores: it is part of what a
result is, and the same command should give the same result on another machine."""
MORE = ("objects", "target", "first", "executed", "malformed")
"""What an episode of the record holds beyond its format; how long it took is in episodes.jsonl only."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is evaluated, and how.

    Attributes:
        policy: as the user names it.
        batch: rows per call of a local model; 0 is BATCH.
        execute: actions taken of each chunk; 0 takes the contract's.
        workers: processes; 0 is one per core.
        videos: episodes to film.
        fresh: replace what the folder holds.
        record: folder that gets the episodes as robot data; "" is none.
        engine: where the workers are; no part of what a result is.
        decode: the `decode` that the policy's contract must have; "" accepts any.
    """

    policy: str
    suite: Suite
    out: str
    batch: int = 0
    execute: int = 0
    workers: int = 0
    videos: int = 0
    fresh: bool = False
    record: str = ""
    engine: Engine = "local"
    decode: str = ""


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
    identity = _identity(options, policy, batch)
    with Journal(folder, identity, options.fresh) as journal:
        if options.fresh:
            _clear(folder)
        if options.record and journal.lines:
            raise UserError(
                "an evaluation that was begun cannot be recorded", options.out, "add --fresh, or choose another --out"
            )
        done = {(line["task"], line["variation"], line["seed"], line["kind"]) for line in journal.lines}
        # One that is done but was not filmed is filmed now: it goes the same way again.
        todo = [
            e
            for e in _ordered(suite, options.videos)
            if _key(e) not in done or (e.video and not (folder / _film_name(_key(e))).is_file())
        ]
        if progress:
            progress(None, len(done))

        def finished(result: Result) -> None:
            # The film first: an episode that is in the journal has its film.
            if result.frames:
                film(result, folder / _film(vars(result)))
            if (result.task, result.variation, result.seed, result.kind) not in done:
                journal.append(result.to_dict())
            # A suite's frames would fill the memory.
            result.frames, result.actions = [], []
            if progress:
                progress(result, len(journal.lines))

        began = time.perf_counter()
        count = worker_count(options.engine, options.workers, len(todo))
        if todo:
            with (
                open_workers(options.engine, count) as workers,
                recording(options.record, options.policy, options.fresh) as recorder,
            ):
                rollout(policy, todo, workers, finished, options.execute, recorder=recorder)
        seconds = time.perf_counter() - began
        record = _record(options, identity, journal.lines, {"seconds": seconds, "episodes": len(todo), "workers": count})
        record.save(folder)
        write_evaluation(folder, record, _films(folder, suite, journal.lines))
    return record


def recording(folder: str, policy: str, overwrite: bool) -> contextlib.AbstractContextManager[Recorder | None]:
    """What writes the episodes as robot data; nothing where no folder is named."""
    return Recorder(folder, policy, overwrite) if folder else contextlib.nullcontext()


def said(record: Record) -> str:
    """What came out, in a few lines."""
    summary = record.more["summary"]
    lines = []
    for kind, found in summary["kinds"].items():
        told = kind in ("correct", "swapped")
        name, rate = ("success", found["success"]) if told else ("something done", found["execution"])
        lines.append(f"{kind} instruction: {name} {Rate(**rate)}")
    for group in summary["groups"] if len(summary["groups"]) > len(summary["kinds"]) else []:
        lines.append(f"  {group['task']}, {group['variation']}, {group['kind']}: {Rate(**group['success'])}")
    if use := summary["language_use"]["all"]:
        lines.append(f"language use: {100 * use['rate']:+.0f} points ({100 * use['low']:+.0f} to {100 * use['high']:+.0f})")
    if malformed := sum(episode.more.get("malformed", 0) for episode in record.episodes):
        some = sum(bool(episode.more.get("malformed", 0)) for episode in record.episodes)
        lines.append(f"malformed answers: {malformed}, in {some} episodes; the robot rested for a step each time")
    if restarts := record.more["run"]["restarts"]:
        lines.append(f"workers restarted: {len(restarts)} ({restarts[0]})")
    return "\n".join(lines)


def _identity(options: Evaluation, policy: Policy | None, batch: int) -> dict[str, Any]:
    local = hasattr(policy, "batch")
    return {
        "suite": options.suite.name,
        "suite_hash": options.suite.hash,
        "policy": options.policy,
        "weights": _weights(options.policy),
        "contract": policy.contract.hash if policy is not None and getattr(policy, "says_contract", True) else None,
        "batch": [batch] if local else [],
        "execute": options.execute,
        "versions": provenance()["versions"],
    }


def _weights(name: str) -> str | None:
    """SHA-256 of a local policy's weights; None for what lives elsewhere."""
    path = Path(name)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            while part := content.read(2**20):
                digest.update(part)
    return digest.hexdigest()


def _key(episode: Episode) -> Key:
    return episode.task, episode.variation.name, episode.seed, episode.kind


def _ordered(suite: Suite, videos: int) -> list[Episode]:
    """The episodes in the order of running, of which any beginning is a fair share; the first with the first kind are filmed."""
    by_key = {_key(e): e for e in suite.all()}
    episodes = [by_key[key] for key in interleaved(list(by_key))]
    filmed = [e.id for e in episodes if e.kind == suite.kinds[0]][:videos]
    return [dataclasses.replace(e, video=e.id in filmed) for e in episodes]


def _film(line: Mapping[str, Any]) -> str:
    return _film_name((line["task"], line["variation"], line["seed"], line["kind"]))


def _film_name(key: Key) -> str:
    return f"videos/{re.sub('[^A-Za-z0-9]+', '-', '-'.join(map(str, key)))}.mp4"


def film_path(folder: str | Path, record: Record) -> Path:
    """The film of the first episode of the record that has one."""
    paths = [Path(folder) / _film(vars(episode)) for episode in record.episodes]
    return next(path for path in paths if path.is_file())


def _films(folder: Path, suite: Suite, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The films that are there, in the order of the suite, and before them the grid of them all."""
    by_key = {(line["task"], line["variation"], line["seed"], line["kind"]): line for line in lines}
    found = [
        {
            "path": _film(line),
            "title": line["instruction"] or "(no instruction)",
            "outcome": "success" if line["success"] else "failure",
            "note": line["variation"] + (f", {line['failure']}" if line["failure"] else ""),
        }
        for line in (by_key[_key(e)] for e in suite.all())
        if (folder / _film(line)).is_file()
    ]
    if len(found) > 1:
        film_grid(
            [folder / one["path"] for one in found], folder / "videos/grid.mp4", embodiment_of(suite.tasks[0])[1].control_hz
        )
        found.insert(0, {"path": "videos/grid.mp4", "title": f"{len(found)} episodes", "wide": True})
    return found


def _record(options: Evaluation, identity: dict[str, Any], lines: list[dict[str, Any]], run: dict[str, Any]) -> Record:
    """The record; all that another run of the same evaluation may have otherwise is in its `run`."""
    suite = options.suite
    by_key = {(line["task"], line["variation"], line["seed"], line["kind"]): line for line in lines}
    episodes = [_episode(by_key[_key(episode)]) for episode in suite.all()]
    made = provenance()
    restarts = [
        f"{line['task']}/{line['variation']}/{line['seed']}/{line['kind']}: {why}" for line in lines for why in line["restarts"]
    ]
    more = {
        "about": suite.about,
        "weights": identity["weights"],
        "execute": options.execute,
        "horizon": suite.horizons,
        "summary": summarise(episodes),
        "run": {
            **run,
            "episode_seconds": sum(line["seconds"] for line in lines),
            "restarts": restarts,
            **{key: made[key] for key in ("command", "commit", "hardware")},
        },
    }
    return Record(
        suite=suite.name,
        suite_hash=suite.hash,
        policy=options.policy,
        contract=identity["contract"],
        batch=identity["batch"],
        versions=identity["versions"],
        episodes=episodes,
        more=more,
    )


def _episode(line: dict[str, Any]) -> EpisodeRecord:
    names = [f.name for f in dataclasses.fields(EpisodeRecord) if f.name != "more"]
    return EpisodeRecord(**{name: line[name] for name in names}, more={name: line[name] for name in MORE if name in line})


def _clear(folder: Path) -> None:
    """What an earlier evaluation left; nothing else is touched."""
    for name in ("results.json", "report.html"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "videos", ignore_errors=True)
