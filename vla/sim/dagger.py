"""DAgger (`vla collect --policy`): a policy acts, an expert says what it would have done in the states where the policy went, and
this is written as robot data. The expert is the task's scripted one, or another policy.

Episodes are written in blocks, a shard each, in the episodes' order: an interrupted round goes on after its last whole shard.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vla.datasets.card import DatasetCard
from vla.datasets.index import ShardIndex
from vla.datasets.shards import PATTERN, ShardWriter, check_empty, decode_json
from vla.datasets.statistics import space_with_statistics
from vla.datasets.steps import load_steps
from vla.errors import UserError
from vla.policies.base import Policy
from vla.report.records import Key
from vla.sim.advised import AdvisedResult, AdvisedSimulation
from vla.sim.collect import generator
from vla.sim.collect_options import Collect, Report
from vla.sim.episodes import Episode, Kind, Result
from vla.sim.registry import embodiment_of, find_task
from vla.sim.rollout import rollout
from vla.sim.simulator_worker import SimulatorWorker
from vla.sim.workers import Workers

BLOCK = 20
"""Episodes per shard."""
SCENES = 1_000_000
"""Scenes of a round with seed k begin at k + 1 times this number: no suite and no demonstration has them."""
UNFINISHED = "unfinished.json"
"""What a round that is not complete was begun with."""


def episodes_of(options: Collect) -> list[Episode]:
    """The episodes of a round. A scene comes once for each of its two goals, if it has two."""
    kinds: tuple[Kind, ...] = ("correct", "swapped") if find_task(options.task).goals > 1 else ("correct",)
    first = SCENES * (options.seed + 1)
    return [Episode(first + i // len(kinds), kinds[i % len(kinds)], task=options.task) for i in range(options.episodes)]


def advised_workers(options: Collect, count: int, make: Callable[[], Any] = SimulatorWorker) -> Workers:
    """Worker processes in which the expert watches the simulation that `make` makes."""
    space = embodiment_of(options.task)[1].action
    ranges = np.subtract(space.high, space.low)
    return Workers(count, functools.partial(AdvisedSimulation, options.beta, options.seed, ranges, make))


def collect_advised(
    options: Collect,
    policy: Policy,
    identity: dict[str, Any],
    workers: Workers,
    report: Report,
    teacher: Policy | None = None,
) -> dict[str, int]:
    """Runs a round, or the rest of an interrupted one, and writes it.

    Args:
        options: what to collect; `overwrite` begins anew.
        policy: acts.
        identity: what the policy, and the expert that is one, are; with others no round goes on.
        workers: from `advised_workers`.
        teacher: the expert that is a policy; None is the scripted one.

    Returns:
        counts of episodes, steps and successes.

    Raises:
        UserError: the folder holds data, or the beginning of another round; or the policy fails.
    """
    begun = {"collect": generator(options), "policy": identity}
    kept = {} if options.overwrite else whole_shards(Path(options.out), begun)
    episodes, first = episodes_of(options), len(kept) * BLOCK
    blocks = [episodes[i : i + BLOCK] for i in range(first, len(episodes), BLOCK)]
    results: dict[Key, AdvisedResult] = {}
    with ShardWriter(options.out, per_shard=0, overwrite=options.overwrite, keep=kept) as writer:
        (writer.folder / UNFINISHED).write_text(json.dumps(begun))
        ended = min(first, len(episodes))
        report(ended, len(episodes), "")

        def finish(result: Result) -> None:
            nonlocal ended
            assert isinstance(result, AdvisedResult)
            results[result.key] = result
            ended += 1
            report(ended, len(episodes), result.failure or "success")
            while blocks and all(episode.key in results for episode in blocks[0]):
                for number, episode in enumerate(blocks.pop(0), len(writer.shards) * BLOCK):
                    for step, (members, about) in enumerate(results.pop(episode.key).steps_written):
                        writer.write(f"e{number:06d}_s{step:04d}", {**members, "json": {"episode": number, **about}})
                writer.cut()

        rollout(policy, sum(blocks, []), workers, finish, teacher=teacher)
    counts = _save_card(options, writer.shards)
    (writer.folder / UNFINISHED).unlink()
    return counts


def whole_shards(folder: Path, begun: dict[str, Any]) -> dict[str, int]:
    """The complete shards of a round that was begun alike, with their numbers of samples.

    Raises:
        UserError: the folder holds other data, or the beginning of another round.
    """
    if not sorted(folder.glob(PATTERN)) or not (folder / UNFINISHED).is_file():
        check_empty(folder, overwrite=False)
        return {}
    try:
        other = json.loads((folder / UNFINISHED).read_text())
    except ValueError:
        other = None
    if other != json.loads(json.dumps(begun)):
        fix = "give the same options and policy to go on, choose another folder, or begin anew with --overwrite"
        raise UserError("the folder holds the beginning of another round", str(folder), fix)
    index = ShardIndex(folder)
    spans = {name: index.span(name) for name in sorted(path.name for path in folder.glob(PATTERN))}
    return {name: end - start for name, (start, end) in spans.items()}


def _save_card(options: Collect, shards: dict[str, int]) -> dict[str, int]:
    robot, spec = embodiment_of(options.task)
    index = ShardIndex(options.out)
    steps = load_steps(index, spec)
    space = {name: space_with_statistics(getattr(spec, name), getattr(steps, name)) for name in ("action", "state")}
    firsts = np.unique(steps.episode, return_index=True)[1]
    won = [decode_json(index.read(int(steps.record[row]), ("json",))["json"], "")["success"] for row in firsts]
    counts = {"episodes": len(firsts), "steps": len(steps.episode), "successes": sum(won)}
    DatasetCard(
        name=f"{options.task}-dagger",
        kind="robot",
        embodiment=robot,
        spec=dataclasses.replace(spec, **space),
        counts=counts,
        shards=shards,
        conventions={"actions": "what the expert would do in the state to which the policy, or now and then the expert, led"},
        wordings=list(find_task(options.task).wordings),
        generator=generator(options),
    ).save(options.out)
    return counts
