"""`vla rollout`."""

from __future__ import annotations

import dataclasses
import shutil

from tqdm import tqdm

from vla.contract import StatisticOption
from vla.errors import UserError
from vla.evaluation.films import actions_of, describe, film
from vla.report.intervals import Rate
from vla.report.summary import rates
from vla.sim.engines import Engine, open_workers, worker_count
from vla.sim.episodes import Kind, Result
from vla.sim.registry import find_task, simulator_of
from vla.sim.rollout import rollout as run_rollout
from vla.sim.suites import Suite, check_kinds, load_suite
from vla.sim.variation import SEEN


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
    check_kinds(find_task(task), (kind,), "--kind")
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
    if instruction and (note := simulator_of(task).note(task, instruction)):
        print(f"note: {note}")
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
