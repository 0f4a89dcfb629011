"""What the commands do once they are chosen, and the hooks that training gets from the simulator."""

from __future__ import annotations

import dataclasses
import functools
import re
import shutil
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vla.contract import StatisticOption
from vla.errors import UserError
from vla.evaluation.films import actions_of, describe, film
from vla.policies.base import Policy, TemporalEnsemble
from vla.report.intervals import Rate
from vla.report.summary import rates
from vla.serving.options import Options
from vla.sim.collect import collect_with_progress
from vla.sim.collect_options import Collect
from vla.sim.engines import Engine, open_workers, worker_count
from vla.sim.episodes import Episode, Kind, Result
from vla.sim.rollout import rollout as run_rollout
from vla.sim.suites import Suite, check_kinds, load_suite
from vla.sim.tasks import TASKS, known_task
from vla.sim.tasks.wording import known_objects, named_object
from vla.sim.variation import SEEN
from vla.sim.workers import Workers

TRAINING_ROLLOUTS = 500_000
"""Seeds of rollouts during training: choosing a checkpoint by them leaves evaluation's scenes unseen."""


def collect(
    out: str,
    task: str = "lift",
    episodes: int = 200,
    pictures: int = 4000,
    noise: float = Collect.noise,
    clean: float = Collect.clean,
    excursions: float = Collect.excursions,
    objects: int = Collect.objects,
    numbers: bool = Collect.numbers,
    sizes: bool = Collect.sizes,
    poses: int = Collect.poses,
    seed: int = 0,
    workers: int = 0,
    overwrite: bool = False,
) -> str:
    """Records demonstrations of the scripted expert, or pictures with questions, as webdataset shards with a card.

    Args:
        out: folder to write.
        task: demonstrations of "lift", "put", "push" or "stack", or of one of robosuite's own tasks, e.g. "robosuite-Lift";
            "questions" for pictures with questions.
        episodes: demonstrations.
        pictures: pictures, for questions.
        noise: standard deviation (m) of the disturbance of the expert's actions.
        clean: share of the episodes without disturbance.
        excursions: how often, per step, a disturbed episode goes astray for a while before it goes on.
        objects: on the table of a question picture; 0 draws one to four.
        numbers: ask also for numbers and what stands for them (suite rt2/symbols); the other questions stay the same.
        sizes: make the objects of demonstrations small or large, and name them so.
        poses: expert episodes from which the robot's poses in question pictures are taken.
        seed: of everything drawn.
        workers: processes; 0 is one per core.
        overwrite: replace data that is already there.
    """
    if task != "questions":
        known_task(task)
    counts = collect_with_progress(
        Collect(
            out,
            task,
            episodes=episodes,
            pictures=pictures,
            noise=noise,
            clean=clean,
            excursions=excursions,
            objects=objects,
            numbers=numbers,
            sizes=sizes,
            poses=poses,
            seed=seed,
            workers=workers,
            overwrite=overwrite,
        )
    )
    return f"{out}: " + ", ".join(f"{value} {name}" for name, value in counts.items())


def new_tokenizer() -> Any:
    """A tokenizer that knows the words of the simulator's instructions and questions."""
    from vla.contract import PolicyContract
    from vla.models.text import train_tokenizer
    from vla.sim.questions import vocabulary_corpus

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


def rollout(
    policy: str,
    suite: str = "",
    task: str = "lift",
    instruction: str = "",
    episodes: int = 0,
    kind: Kind = "correct",
    seed: int = 0,
    horizon: int = 0,
    video: str = "",
    videos: int = 0,
    out: str = "",
    record: str = "",
    fresh: bool = False,
    batch: int = 0,
    execute: int = 0,
    workers: int = 0,
    engine: Engine = "local",
    decode: StatisticOption = "",
) -> str:
    """Drives the simulated robot with a policy and says how it went.

    Args:
        policy: an export's folder, a checkpoint, the http address of `vla serve`, the ws address of an openpi server,
            openvla+http://… of an OpenVLA server, "expert" or "random".
        suite: evaluates on a suite, e.g. "rt2/seen", or on a .yaml file; it says tasks, variations, kinds, seeds and horizon.
        task: "lift", "put", "push" or "stack", or one of robosuite's own, e.g. "robosuite-Lift".
        instruction: a sentence for the robot, e.g. "lift the green cube"; the objects it names are put on the table.
            "" draws goal and wording.
        episodes: scenes to try; 0 is 1, or what the suite says.
        kind: whether the drawn goal is asked for, the swapped one (another object, place or side), nothing, or nothing that
            means anything.
        seed: of the first scene; the next ones follow.
        horizon: steps until an episode is given up; 0 is the task's.
        video: MP4 of the first episode; its actions are written beside it, as .json.
        videos: films that many episodes into `out`.
        out: folder for results.json, one line per episode and report.html; a stopped evaluation goes on there.
        record: folder that gets the episodes as robot data, every step with what was seen and done.
        fresh: replace what `out` holds of an earlier evaluation, and what `record` holds.
        batch: rows per call of a local model, part of the result's identity; 0 is 2 with `out`, else one per worker.
        execute: actions taken of each chunk; 0 takes the contract's.
        workers: processes; 0 is one per core.
        engine: "ray" spreads the episodes over a Ray cluster; results are the same.
        decode: refuse a policy whose contract has another `decode` (mode, median or local-mean); it changes no policy.
    """
    check_kinds(known_task(task), (kind,), "--kind")
    if min(episodes, horizon, workers, batch, execute, videos) < 0:
        numbers = f"episodes {episodes}, horizon {horizon}, workers {workers}, batch {batch}, execute {execute}, videos {videos}"
        raise UserError(numbers, "rollout", "each is at least 0; 0 leaves it to us")
    if suite and (instruction or (task, kind, seed, horizon) != ("lift", "correct", 0, 0)):
        raise UserError(
            "a suite has its own tasks, instructions, kinds, seeds and horizon",
            "--suite",
            "leave out --task, --instruction, --kind, --seed and --horizon",
        )
    if not out and (suite or videos or (fresh and not record)):
        raise UserError("--suite, --videos and --fresh need a folder", "rollout", "add --out, e.g. --out runs/seen")
    if instruction and task in TASKS and named_object(instruction) is None:
        print(f"note: the instruction names none of {', '.join(known_objects())}; nothing counts as success")
    from vla.evaluation.run import Evaluation, evaluate, film_path, open_policy, recording, said

    one = Suite(task, (task,), (SEEN,), episodes or 1, horizon, (kind,), seed, instruction=instruction)
    chosen = load_suite(suite, episodes) if suite else one
    todo = chosen.all()
    with tqdm(total=len(todo), desc=chosen.name, unit="episode", disable=len(todo) == 1) as bar:

        def progress(result: Result | None, done: int) -> None:
            bar.update(done - bar.n)
            if result is not None:
                bar.write(describe(result) + "".join(f"; again: {why}" for why in result.restarts))

        if out:
            filmed = max(videos, bool(video))
            options = Evaluation(policy, chosen, out, batch, execute, workers, filmed, fresh, record, engine, decode)
            found = evaluate(options, progress)
            if video:
                shutil.copy2(film_path(out, found), video)
                shutil.copy2(actions_of(film_path(out, found)), actions_of(video))
            return f"{said(found)}\nrecord: {out}/results.json, page: {out}/report.html"
        count = worker_count(engine, workers, len(todo))
        acting = open_policy(policy, batch or count, chosen.tasks, decode)
        todo[0] = dataclasses.replace(todo[0], video=bool(video))
        with open_workers(engine, count) as pool, recording(record, policy, fresh) as recorder:
            results = run_rollout(acting, todo, pool, lambda r: progress(r, bar.n + 1), execute, recorder=recorder)
    if video:
        film(results[0], video)
        print(f"video: {video}")
    summary = rates(results)
    return "\n".join(f"{name.replace('_', ' ')}: {Rate(**rate)}" for name, rate in summary.items() if rate["n"])


def serve(
    policy: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    keys: str = "",
    public: bool = False,
    tls_cert: str = "",
    tls_key: str = "",
    batch: int = Options.batch,
    wait_ms: float = Options.wait_ms,
    queue: int = Options.queue,
    deadline_s: float = Options.deadline_s,
    connections: int = Options.connections,
    per_key: int = Options.per_key,
    rate: float = Options.rate,
    message: int = Options.message,
    side: int = Options.side,
    ensemble: bool = False,
    threads: int = 0,
    decode: StatisticOption = "",
) -> None:
    """Answers clients with a policy's actions, over HTTP and websocket, until it is stopped.

    Args:
        policy: an export's folder or a checkpoint; several as NAME=FOLDER,NAME=FOLDER, each at /policies/NAME.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        keys: file of API keys, `name key` a line; editing it adds and revokes keys.
        public: let anyone in who reaches an address that is not this machine's own.
        tls_cert: PEM file of a certificate; then only https and wss are spoken.
        tls_key: PEM file of its key.
        batch: most observations in one call of the policy; 1 is batching off.
        wait_ms: longest time (ms) that the first of a batch waits for others.
        queue: requests that may wait; one more is told to come back later.
        deadline_s: seconds until an unanswered request is given up.
        connections: open connections, of all clients together.
        per_key: connections of one key, or one address, that are in use at once.
        rate: requests per second of one key, or one address; 0 is as many as come.
        message: bytes of a request.
        side: longest side of a picture that is read, in pixels.
        ensemble: average, for each client, what its overlapping chunks say of an action (temporal ensembling): for clients that
            ask at every step. An answer is one action then.
        threads: of the policy's computations; 0 leaves it to torch.
        decode: refuse a policy whose contract has another `decode` (mode, median or local-mean); it changes no policy.
    """
    import torch

    from vla.policies.load import load_policy
    from vla.serving.logs import log_to_stderr
    from vla.serving.options import ladder
    from vla.serving.server import serve as run

    limits = {"message": message, "side": side, "connections": connections, "per_key": per_key, "rate": rate}
    options = Options(batch, wait_ms, queue, deadline_s, **limits)
    if bool(tls_cert) != bool(tls_key):
        raise UserError("a certificate needs its key, and a key its certificate", "TLS", "give --tls_cert and --tls_key")
    if threads:
        torch.set_num_threads(threads)
    named = dict(_named(one) for one in policy.split(","))

    def open_one(path: str) -> Policy:
        found = load_policy(path, ladder(batch), probabilities=True, decode=decode)
        return TemporalEnsemble(found) if ensemble else found

    load = {name: functools.partial(open_one, path) for name, path in named.items()}
    log_to_stderr()
    tls = (tls_cert, tls_key) if tls_cert else None
    run({name: one() for name, one in load.items()}, host, port, options, keys, tls, public, load)


def _named(one: str) -> tuple[str, str]:
    """NAME=FOLDER; a folder alone is called after itself."""
    name, equals, path = one.partition("=")
    name, path = (name, path) if equals else (re.sub(r"[^\w.-]+", "-", Path(one).resolve().name), one)
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"the name {name!r}", one, "letters, digits, dots and dashes, e.g. lift=runs/demo/export")
    return name, path
