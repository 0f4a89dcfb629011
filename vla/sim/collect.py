"""Collecting demonstrations and questions in worker processes; the parent writes shards and the dataset card.

What is written depends on the seed and the amounts alone, not on the number of workers.
"""

from __future__ import annotations

import collections
import dataclasses
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from vla.datasets.card import DatasetCard
from vla.datasets.shards import ShardWriter, encode_member
from vla.datasets.statistics import space_with_statistics
from vla.errors import UserError
from vla.sim import questions as asking
from vla.sim.collect_options import Collect
from vla.sim.embodiment import EMBODIMENT, EMBODIMENT_NAME, robot
from vla.sim.experts import done, expert_action
from vla.sim.scene import SLOTS
from vla.sim.stock_collect import start_stock, stock_episodes
from vla.sim.tasks import STOCK_TASKS, find_task, known_task
from vla.sim.tasks.base import Goal
from vla.sim.tasks.outcome import Outcome
from vla.sim.variation import Variation

if TYPE_CHECKING:
    from vla.sim.tabletop import Tabletop

CONVENTIONS = {
    "pictures": "upright RGB, taken before the action",
    "state": "gripper relative to the middle of the table top, yaw from the first pose, gap between the fingers",
    "actions": "differences to the present pose for one control period, robot base frame; the expert's clean label",
    "point": "middle of the named object in the front picture, (right, down), 0 to 1",
    "reach": "the named object from the gripper along x, y, z, then the turn to its faces: 256 even steps over +-0.2 m and "
    "+-pi/4 rad",
}
STOCK_CONVENTIONS = {
    "pictures": "upright RGB, taken before the action",
    "state": "robosuite's eef_pos (m, world), eef_quat as a rotation vector, gripper_qpos (m)",
    "actions": "robosuite's own, -1 to 1; the expert's clean label",
}
BLOCK = 50
Report = Callable[[int, int, str], None]
"""Called with (done, of how many, a word on how it goes)."""


def collect(options: Collect, report: Report | None = None) -> dict[str, int]:
    """Collects what the options say and writes it.

    Returns:
        counts: episodes, steps and discarded attempts, or pictures.

    Raises:
        UserError: an amount below one, or data in the folder that is not to be replaced.
    """
    if min(options.episodes, options.pictures, options.poses) < 1:
        raise UserError("nothing to collect", "collect", "ask for at least one episode, picture and pose")
    if options.workers < 0 or not 0 <= options.objects <= SLOTS:
        raise UserError(
            f"workers {options.workers}, objects {options.objects}", "collect", f"at least 0 workers, and 0 to {SLOTS} objects"
        )
    return (_collect_questions if options.task == "questions" else _collect_episodes)(options, report or (lambda *_: None))


def collect_with_progress(options: Collect) -> dict[str, int]:
    """Collects, with a progress bar."""
    total = options.pictures if options.task == "questions" else options.episodes
    with tqdm(total=total, desc=f"collect {options.task}", unit="picture" if options.task == "questions" else "episode") as bar:

        def report(done: int, _: int, word: str) -> None:
            bar.update(done - bar.n)
            bar.set_postfix_str(word)

        return collect(options, report)


def map_in_processes(function: Callable, items: range, initializer: Callable, arguments: tuple, workers: int) -> Iterator[Any]:
    """The function's results in order, computed in spawned processes (0: one per core) that each ran the initializer."""
    workers = min(workers or multiprocessing.cpu_count(), len(items))
    with multiprocessing.get_context("spawn").Pool(workers, initializer, arguments) as pool:
        yield from pool.imap(function, items)


_table: Tabletop
_poses: list[asking.Pose]
_options: Collect


def _start(options: Collect) -> None:
    from vla.sim.tabletop import Tabletop

    # An interrupt is for the parent, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    global _table, _poses, _options
    _table, _options = Tabletop(), options
    if options.task == "questions":
        _poses = asking.collect_poses(_table, np.random.default_rng((options.seed, 1)), options.poses)


def _encode(members: dict[str, Any]) -> dict[str, bytes]:
    return {name: encode_member(name, value) for name, value in members.items()}


def _pictures() -> dict[str, Any]:
    return {f"{name}.jpg": image for name, image in _table.images().items()}


def _scene_episodes(index: int) -> list[tuple[str, list[dict[str, bytes]], np.ndarray, np.ndarray]]:
    """Scene `index`, demonstrated once for each of its two goals: the same start under two instructions.

    Returns:
        per attempt: the failure ("" for success), encoded steps without their episode number, actions and states.
    """
    attempts = []
    variation = Variation(sizes=_options.sizes)
    layout = find_task(_options.task).draw(np.random.default_rng((_options.seed, 2, index)), 2 + index % 2, variation)
    for number, goal in enumerate(layout.goals):
        rng = np.random.default_rng((_options.seed, 3, index, number))
        _table.reset(layout.scene, np.random.default_rng((_options.seed, 4, index)))
        attempts.append(_demonstrate(goal, rng))
    return attempts


def _demonstrate(goal: Goal, rng: np.random.Generator) -> tuple[str, list[dict[str, bytes]], np.ndarray, np.ndarray]:
    task, target = find_task(goal.task), goal.target
    outcome, noisy = Outcome(task, goal, 10 * task.horizon), rng.random() >= _options.clean
    instruction = task.instruct(_table.scene, goal, rng)
    steps, actions, states, terminate, segment = [], [], [], [], 0
    # Some steps after the end show what it looks like.
    while not outcome.failure and sum(terminate) < 3 and len(steps) < 2 * task.horizon:
        if noisy and not done(_table, goal) and rng.random() < _options.excursions:
            if _table.grasped(target):
                _sink(goal, outcome, int(rng.integers(1, 6)))
            else:
                _wander(goal, rng, outcome)
            segment += bool(steps)
            continue
        action, state = expert_action(_table, goal), _table.state()
        terminate.append(int(done(_table, goal)))
        steps.append((_pictures(), [round(c, 4) for c in _table.project(target)], asking.reach(_table, target), segment))
        actions.append(action.astype(np.float32))
        states.append(state.astype(np.float32))
        disturbed = action.copy()
        if noisy:
            disturbed[:3] += rng.normal(0, _options.noise, 3)
            disturbed[5] += rng.normal(0, 0.08)
        _table.step(disturbed)
        outcome.update(_table)
    encoded = []
    for step, ((pictures, point, reach, segment), action, state) in enumerate(zip(steps, actions, states, strict=True)):
        description = {
            "step": step,
            "length": len(steps),
            "segment": segment,
            "instruction": instruction,
            "terminate": terminate[step],
            "embodiment": EMBODIMENT_NAME,
            "target": _table.scene[target].name,
            **_where_to(goal),
            "point": point,
            "reach": reach,
        }
        encoded.append({**_encode({**pictures, "action.npy": action, "state.npy": state}), "json": description})
    failure = outcome.failure or ("" if terminate[-1] else "timeout")
    return failure, encoded, np.array(actions), np.array(states)


def _where_to(goal: Goal) -> dict[str, str]:
    """What the goal names besides its target."""
    reference = {} if goal.reference is None else {"reference": _table.scene[goal.reference].name}
    return reference | ({"side": goal.side} if goal.side else {})


def _wander(goal: Goal, rng: np.random.Generator, outcome: Outcome) -> None:
    """Does something else for a while, unrecorded; what follows shows the way back from where a policy's mistakes lead.

    It goes anywhere, at another object, or closes the gripper where it is and rises as if it held something.
    """
    kind = rng.choice(["anywhere", "other", "close"], p=[0.3, 0.3, 0.4])
    somewhere = np.concatenate(
        [rng.uniform(-0.05, 0.05, 2), rng.uniform(-0.02, 0.05, 1), np.zeros(2), rng.uniform(-0.25, 0.25, 1)]
    )
    other = int(rng.choice([i for i, o in enumerate(_table.scene) if i != goal.target and o.movable]))
    # What it goes to cannot be put onto itself.
    astray = Goal("lift", other) if other == goal.reference else dataclasses.replace(goal, target=other)
    shut, closed = int(rng.integers(1, 9)), rng.choice([-1.0, 1.0], p=[0.7, 0.3])
    for step in range(int(rng.integers(*{"anywhere": (2, 9), "other": (4, 18), "close": (2, 14)}[kind]))):
        if kind == "other":
            action = expert_action(_table, astray)
        elif kind == "anywhere":
            action = np.append(somewhere, closed)
        else:
            action = np.array([0, 0, 0.03 if step > shut else 0.0, 0, 0, 0, 1.0])
        _table.step(action)
        outcome.update(_table)
        if outcome.over or outcome.task.disturbed(_table, other):
            break


def _sink(goal: Goal, outcome: Outcome, steps: int) -> None:
    """Lets what it holds down towards the table and stays there, unrecorded; what follows shows how to go on.

    Without it a demonstration shows the first moment of a hold once and the closing before it many times: a policy that lost a
    step there said "stay closed" for ever.
    """
    for _ in range(steps):
        _table.step(np.array([0, 0, -0.03 if _table.lift(goal.target) > 0.005 else 0.0, 0, 0, 0, 1.0]))
        outcome.update(_table)
        if outcome.over:
            break


def _collect_episodes(options: Collect, report: Report) -> dict[str, int]:
    task = known_task(options.task)
    if not task.expert:
        raise UserError(f"{task.name} has no scripted expert", "collect", "nobody can demonstrate it here")
    stock = task.name in STOCK_TASKS
    if stock and options.sizes:
        raise UserError(f"{task.name} has objects of one size", "collect", "leave out --sizes")
    scene, start = (stock_episodes, start_stock) if stock else (_scene_episodes, _start)
    failures: collections.Counter[str] = collections.Counter()
    all_actions, all_states, written = [], [], 0
    limit = 4 * options.episodes + 8
    with ShardWriter(options.out, overwrite=options.overwrite) as writer:
        for attempts in map_in_processes(scene, range(limit), start, (options,), options.workers):
            for failure, steps, actions, states in attempts:
                if written == options.episodes:
                    break
                failures[failure] += 1
                if failure:
                    continue
                for members in steps:
                    description = {"episode": written, **members.pop("json")}  # type: ignore[dict-item]
                    writer.write(f"e{written:06d}_s{description['step']:04d}", {**members, "json": description})
                all_actions.append(actions)
                all_states.append(states)
                written += 1
            report(written, options.episodes, f"{sum(failures.values()) - failures['']} failed attempts discarded")
            if written == options.episodes:
                break
    if written < options.episodes:
        raise UserError(
            f"only {written} of {options.episodes} episodes succeeded: {dict(failures)}", options.out, "lower the noise"
        )
    actions, states = np.concatenate(all_actions), np.concatenate(all_states)
    counts = {"episodes": written, "steps": len(actions), "discarded": sum(failures.values()) - written}
    _, body = robot(task.name)
    spec = dataclasses.replace(
        body, action=space_with_statistics(body.action, actions), state=space_with_statistics(body.state, states)
    )
    _card(options, "robot", spec, counts, writer.shards, wordings=list(task.wordings)).save(options.out)
    return counts


def _ask_block(block: int) -> list[dict[str, Any]]:
    samples = []
    for picture in range(block * BLOCK, min((block + 1) * BLOCK, _options.pictures)):
        rng = np.random.default_rng((_options.seed, 5, picture))
        asked = asking.draw_picture(_table, _poses, rng, _options.objects, _options.numbers)
        samples.append({**_encode(_pictures()), "json": {"questions": asked}})
    return samples


def _collect_questions(options: Collect, report: Report) -> dict[str, int]:
    kinds: collections.Counter[str] = collections.Counter()
    blocks = range(-(-options.pictures // BLOCK))
    with ShardWriter(options.out, per_shard=1000, overwrite=options.overwrite) as writer:
        for samples in map_in_processes(_ask_block, blocks, _start, (options,), options.workers):
            for members in samples:
                writer.write(f"q{writer.count:07d}", members)
                kinds.update(q["type"] for q in members["json"]["questions"])
            report(writer.count, options.pictures, f"{sum(kinds.values())} questions")
    counts = {"pictures": options.pictures}
    types = asking.TYPES + asking.NUMERATE * options.numbers
    wordings = [w for kind in types for w in asking.WORDINGS[kind]]
    _card(options, "questions", EMBODIMENT, counts, writer.shards, wordings, dict(kinds)).save(options.out)
    return counts


def _card(
    options: Collect, kind: Any, spec: Any, counts: dict, shards: dict, wordings: list[str], kinds: dict | None = None
) -> DatasetCard:
    stock = options.task in STOCK_TASKS
    # A card of old stays what it was when an option is added later.
    left = ("out", "workers", "overwrite", *([] if options.numbers else ["numbers"]))
    made = {k: v for k, v in dataclasses.asdict(options).items() if k not in left}
    return DatasetCard(
        name=options.task if stock else f"tabletop-{options.task}",
        kind=kind,
        embodiment=robot(options.task)[0],
        spec=spec,
        counts=counts,
        shards=shards,
        questions=kinds or {},
        conventions=STOCK_CONVENTIONS if stock else CONVENTIONS,
        wordings=wordings,
        generator={"command": f"vla collect --task {options.task}", **made},
    )
