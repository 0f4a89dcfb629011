"""Demonstrations on the tabletop, and images with questions; worker processes compute them."""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from vla.datasets.card import DatasetCard
from vla.datasets.shards import ShardWriter, encode_member
from vla.sim.collect import Attempt, StepDescription, generator, map_in_processes, write_demonstrations
from vla.sim.collect_options import Collect, Report
from vla.sim.tabletop import questions as asking
from vla.sim.tabletop import wide, wide_questions
from vla.sim.tabletop.about import about
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME
from vla.sim.tabletop.experts import done, expert_action
from vla.sim.tabletop.step_questions import ask_step
from vla.sim.tabletop.tasks import find_task
from vla.sim.tabletop.tasks.base import Goal
from vla.sim.tabletop.tasks.outcome import Outcome
from vla.sim.tabletop.tasks.together import draw_layout
from vla.sim.tabletop.variation import TabletopVariation

if TYPE_CHECKING:
    from vla.sim.tabletop.scene_variation import SceneVariation
    from vla.sim.tabletop.tabletop import Tabletop

CONVENTIONS = {
    "pictures": "upright RGB, taken before the action",
    "state": "gripper relative to the middle of the table top, yaw from the first pose, gap between the fingers",
    "actions": "differences to the present pose for one control period, robot base frame; the expert's clean label",
    "point": "middle of the named object in the front picture, (right, down), 0 to 1",
    "reach": "the named object from the gripper along x, y, z, then the turn to its faces: 256 even steps over +-0.2 m and "
    "+-pi/4 rad",
}
WAY = "from the gripper to the object, along its largest component: forward away from the robot, left as the front camera sees it"
DESTINATIONS = "of the named object; once it is held, or the gripper is down to push it, of what it belongs on or beside"
BLOCK = 50
"""Images that a worker process makes at a time."""

_table: Tabletop
_looks: SceneVariation
_poses: list[asking.Pose]
_options: Collect


def collect(options: Collect, report: Report) -> dict[str, int]:
    """Collects demonstrations of a task, or images with questions.

    Returns:
        counts: episodes, steps and discarded attempts, or images.
    """
    if options.task == "questions":
        return _collect_questions(options, report)
    conventions = CONVENTIONS | ({"way": WAY} if options.step_questions else {})
    conventions |= {"point and reach": DESTINATIONS} if options.destinations else {}
    return write_demonstrations(options, _attempts, _start, f"tabletop-{options.task}", conventions, report)


def _start(options: Collect) -> None:
    """What each process does first."""
    from vla.sim.tabletop.scene_variation import SceneVariation
    from vla.sim.tabletop.tabletop import Tabletop

    global _table, _looks, _poses, _options
    _table, _options = Tabletop(), options
    _looks = SceneVariation(_table)
    if options.task == "questions":
        rng = np.random.default_rng((options.seed, 1))
        draw = wide.draw_scene if options.wide else asking.draw_every_shape if options.every_task else None
        _poses = asking.collect_poses(_table, rng, options.poses, draw)


def _encode(members: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {name: encode_member(name, value) for name, value in members.items()}


def _images() -> dict[str, np.ndarray]:
    return {f"{name}.jpg": image for name, image in _table.images().items()}


def _attempts(index: int) -> list[Attempt]:
    """Scene `index`, demonstrated once for each of its two goals: the same start under two instructions."""
    attempts = []
    variation = TabletopVariation(sizes=_options.sizes, every_task=_options.every_task)
    layout = draw_layout(find_task(_options.task), np.random.default_rng((_options.seed, 2, index)), 2 + index % 2, variation)
    for number, goal in enumerate(layout.goals):
        rng = np.random.default_rng((_options.seed, 3, index, number))
        _table.reset(layout.scene, np.random.default_rng((_options.seed, 4, index)))
        asking_rng = np.random.default_rng((_options.seed, 6, index, number))
        attempts.append(_demonstrate(goal, rng, asking_rng))
    return attempts


def _demonstrate(goal: Goal, rng: np.random.Generator, asking_rng: np.random.Generator) -> Attempt:
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
        asked = ask_step(_table, asking_rng) if asking_rng.random() < _options.step_questions else []
        facts = about(_table, goal, _options.destinations)
        steps.append((_images(), facts | ({"questions": asked} if asked else {}), segment))
        actions.append(action.astype(np.float32))
        states.append(state.astype(np.float32))
        disturbed = action.copy()
        if noisy:
            disturbed[:3] += rng.normal(0, _options.noise, 3)
            disturbed[5] += rng.normal(0, 0.08)
        _table.step(disturbed)
        outcome.update(_table)
    encoded: list[tuple[dict[str, bytes], StepDescription]] = []
    for step, ((images, facts, segment), action, state) in enumerate(zip(steps, actions, states, strict=True)):
        description: StepDescription = {
            "step": step,
            "length": len(steps),
            "segment": segment,
            "instruction": instruction,
            "terminate": terminate[step],
            "embodiment": EMBODIMENT_NAME,
            **facts,
        }
        encoded.append((_encode({**images, "action.npy": action, "state.npy": state}), description))
    failure = outcome.failure or ("" if terminate[-1] else "timeout")
    return Attempt(failure, encoded, np.array(actions), np.array(states))


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


def _collect_questions(options: Collect, report: Report) -> dict[str, int]:
    kinds: collections.Counter[str] = collections.Counter()
    blocks = range(-(-options.images // BLOCK))
    with ShardWriter(options.out, per_shard=1000, overwrite=options.overwrite) as writer:
        for samples in map_in_processes(_ask_block, blocks, _start, options):
            for images, questions in samples:
                writer.write(f"q{writer.count:07d}", {**images, "json": {"questions": questions}})
                kinds.update(q["type"] for q in questions)
            report(writer.count, options.images, f"{sum(kinds.values())} questions")
    counts = {"pictures": options.images}
    types = asking.TYPES + asking.NUMERATE * options.numbers
    wordings = wide_questions.WORDINGS if options.wide else {kind: asking.WORDINGS[kind] for kind in types}
    DatasetCard(
        name=f"tabletop-{options.task}",
        kind="questions",
        embodiment=EMBODIMENT_NAME,
        spec=EMBODIMENT,
        counts=counts,
        shards=writer.shards,
        questions=dict(kinds),
        conventions=CONVENTIONS,
        wordings=[wording for texts in wordings.values() for wording in texts],
        generator=generator(options),
    ).save(options.out)
    return counts


def _ask_block(block: int) -> list[tuple[dict[str, bytes], list[dict]]]:
    """The images of a block, encoded, and the questions to each."""
    samples = []
    for image in range(block * BLOCK, min((block + 1) * BLOCK, _options.images)):
        rng = np.random.default_rng((_options.seed, 5, image))
        if _options.wide:
            _looks.apply(wide.draw_look(rng))
            questions = wide_questions.draw_image(_table, _poses, rng, _options.objects)
        else:
            draw = asking.draw_every_shape if _options.every_task else asking.draw_scene
            questions = asking.draw_image(_table, _poses, rng, _options.objects, _options.numbers, draw)
        samples.append((_encode(_images()), questions))
    return samples
