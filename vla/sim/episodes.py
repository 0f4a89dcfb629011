"""What an episode is: which scene, which instruction, which start. A function of its description alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from vla.sim.scene import RECEPTACLES, Object, Scene
from vla.sim.tasks import find_task
from vla.sim.tasks.base import Goal, Task
from vla.sim.tasks.wording import named_objects, named_side
from vla.sim.variation import SEEN, Variation

EVALUATION = 7_000_000
"""Evaluation seeds start here: no demonstration or question picture is drawn from them."""
Kind = Literal["correct", "swapped", "empty", "nonsense"]
KINDS: tuple[Kind, ...] = ("correct", "swapped", "empty", "nonsense")
NONSENSE = (
    "flib the mardy zorp",
    "wug a plonk dax",
    "tove the brillig gimble",
    "snark up the vorpal rath",
    "quell the blicket fep",
)
"""Sentences without a meaning: what is done under them was not asked for."""
DRAWS = 1000
"""Scenes that are drawn for a user's sentence before it is given up."""


@dataclasses.dataclass(frozen=True)
class Episode:
    """One episode to run.

    Attributes:
        seed: of the scene and the start; equal seeds are equal scenes whatever the instruction.
        kind: whether the drawn goal is asked for, the swapped one, or nothing is said, or nothing that means anything.
        instruction: a sentence of the user's instead; the objects that it names (if any) are put into the scene.
        video: whether frames of both cameras are recorded.
        horizon: steps until it is given up; 0 is the task's.
        task: its name.
        variation: what differs from training's scenes.
    """

    seed: int
    kind: Kind = "correct"
    instruction: str = ""
    video: bool = False
    horizon: int = 0
    task: str = "lift"
    variation: Variation = SEEN

    @property
    def id(self) -> str:
        """Names the episode, and its stream to the policy: no two of a suite have the same."""
        return "/".join([self.task, self.variation.name, str(self.seed), self.instruction or self.kind])

    def __str__(self) -> str:
        said = f"“{self.instruction}”" if self.instruction else f"{self.kind} instruction"
        return f"{self.task} / {self.variation.name}, seed {self.seed}, {said}"


@dataclasses.dataclass
class Result:
    """How an episode went.

    Attributes:
        target, first: what should be done and what was done first, as `describe` says it: for lifting, the object ("" is none).
        failure: "" for success, else its class.
        state: hash of the initial state and of what the variation changed.
        malformed: how many answers of the policy were no whole chunk; the robot rested for a step each time.
        restarts: why workers failed in it before it went through; it began anew each time.
        frames: recorded pictures [side, 2 * side, 3], front and wrist.
        actions: for each frame but the first, the action that led to it.
    """

    seed: int
    kind: str
    instruction: str
    objects: list[str]
    target: str
    first: str
    failure: str
    steps: int
    executed: bool
    seconds: float
    task: str = "lift"
    variation: str = "seen"
    state: str = ""
    malformed: int = 0
    restarts: list[str] = dataclasses.field(default_factory=list)
    frames: list[np.ndarray] = dataclasses.field(default_factory=list, repr=False)
    actions: list[np.ndarray] = dataclasses.field(default_factory=list, repr=False)

    @property
    def success(self) -> bool:
        return self.failure == ""

    def to_dict(self) -> dict[str, Any]:
        record = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("frames", "actions")}
        return {**record, "success": self.success}


def set_up(episode: Episode) -> tuple[Scene, Goal | None, str]:
    """The scene of an episode, what is to be done there (None: nothing is asked for), and the instruction.

    Raises:
        UserError: there is no such task.
    """
    task, count, variation = find_task(episode.task), 2 + episode.seed % 2, episode.variation
    rng = np.random.default_rng((EVALUATION, episode.seed))
    if episode.instruction:
        return *_understand(task, episode.instruction, rng, count, variation), episode.instruction
    layout, wording = task.draw(rng, count, variation), np.random.default_rng((EVALUATION, episode.seed, 1))
    if episode.kind == "empty":
        return layout.scene, None, ""
    if episode.kind == "nonsense":
        return layout.scene, None, str(wording.choice(NONSENSE))
    goal = layout.goals[0 if episode.kind == "correct" else 1]
    return layout.scene, goal, task.instruct(layout.scene, goal, wording, variation)


def start_noise(episode: Episode) -> np.random.Generator:
    """What draws the robot's start."""
    return np.random.default_rng((EVALUATION, episode.seed, 2))


def _understand(
    task: Task, instruction: str, rng: np.random.Generator, count: int, variation: Variation
) -> tuple[Scene, Goal | None]:
    """A scene with the objects that a sentence names, and its goal; None where it leaves open what the task needs to know."""
    named, side = named_objects(instruction), named_side(instruction)
    first = layout = task.draw(rng, count, variation)
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
        # Which sides are within reach, and whether of something, the scene decides; a distractor leaves more to ask for.
        layout = task.draw(rng, 3, variation)
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
