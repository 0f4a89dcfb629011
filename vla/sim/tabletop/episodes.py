"""An episode on the tabletop: its scene, its goal, its instruction and the robot's start."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from vla.sim.episodes import NONSENSE, Episode
from vla.sim.tabletop.scene import RECEPTACLES, Object, Scene
from vla.sim.tabletop.tasks import find_task
from vla.sim.tabletop.tasks.base import Goal, Task
from vla.sim.tabletop.tasks.together import draw_layout
from vla.sim.tabletop.tasks.wording import named_objects, named_of, named_side
from vla.sim.tabletop.variation import TabletopVariation

EVALUATION = 7_000_000
"""Evaluation seeds start here: no demonstration and no question is drawn from them."""
DRAWS = 1000
"""The largest number of scenes drawn to find one for a user's sentence."""


def set_up(episode: Episode) -> tuple[Scene, Goal | None, str]:
    """The scene of an episode, what is to be done there (None: nothing is asked for), and the instruction.

    Raises:
        UserError: there is no such task.
    """
    task, count, variation = find_task(episode.task), 2 + episode.seed % 2, TabletopVariation.of(episode.variation)
    rng = np.random.default_rng((EVALUATION, episode.seed))
    if episode.instruction:
        return *_understand(task, episode.instruction, rng, count, variation), episode.instruction
    layout, wording = draw_layout(task, rng, count, variation), np.random.default_rng((EVALUATION, episode.seed, 1))
    if episode.kind == "empty":
        return layout.scene, None, ""
    if episode.kind == "nonsense":
        return layout.scene, None, str(wording.choice(NONSENSE))
    goal = layout.goals[0 if episode.kind == "correct" else 1]
    return layout.scene, goal, task.instruct(layout.scene, goal, wording, variation)


def goal_in(task: Task, scene: Scene, instruction: str) -> Goal | None:
    """What a sentence asks for in a scene as it is; None where it leaves open what the task needs to know."""
    named, side = named_of([o.name for o in scene], instruction), named_side(instruction)
    for goal in task.sayable(scene):
        roles = [goal.target] if goal.reference is None else [goal.target, goal.reference]
        if named[: len(roles)] == roles and (not goal.side or (side, len(named)) == (goal.side, len(roles))):
            return goal
    return None


def start_noise(episode: Episode) -> np.random.Generator:
    """What draws the robot's start."""
    return np.random.default_rng((EVALUATION, episode.seed, 2))


def _understand(
    task: Task, instruction: str, rng: np.random.Generator, count: int, variation: TabletopVariation
) -> tuple[Scene, Goal | None]:
    """A scene with the objects that a sentence names, and its goal; None where it leaves open what the task needs to know."""
    named, side = named_objects(instruction), named_side(instruction)
    first = layout = draw_layout(task, rng, count, variation)
    for _ in range(DRAWS if named else 0):
        goal = layout.goals[0]
        if goal.reference is None and not goal.side:
            # Any object will do: the one of that name or, else, of that colour.
            alike = [next((i for i, o in enumerate(layout.scene) if matches(o)), None) for matches in _likeness(named[0])]
            goal = dataclasses.replace(goal, target=next((i for i in alike if i is not None), goal.target))
        roles = [goal.target] if goal.reference is None else [goal.target, goal.reference]
        fitting = [layout.scene[i].movable for i in roles] == [not n.endswith(tuple(RECEPTACLES)) for n in named[: len(roles)]]
        if fitting and (not goal.side or (side, len(named)) == (goal.side, len(roles))):
            return _name(layout.scene, dict(zip(roles, named, strict=False))), goal
        # The scene decides which sides can be reached; a distractor adds possible goals.
        layout = draw_layout(task, rng, 3, variation)
    return first.scene, None


def _likeness(name: str) -> tuple[Callable[[Object], bool], ...]:
    return lambda o: o.name == name, lambda o: o.colour in name.split()


def _name(scene: Scene, wanted: dict[int, str]) -> Scene:
    """The scene with the objects at some indices given other names; who had such a name or its colour takes theirs in turn."""
    objects = list(scene)
    for index, name in wanted.items():
        *size, colour, shape = name.split()
        old = objects[index]
        for i, other in enumerate(objects):
            if i != index and i not in wanted and other.colour == colour:
                objects[i] = dataclasses.replace(other, colour=old.colour)
        objects[index] = dataclasses.replace(old, colour=colour, shape=shape, size=" ".join(size))
    return tuple(objects)
