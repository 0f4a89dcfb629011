"""What an episode is: which scene, which instruction, which start. A function of its description alone."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

from vla.sim.scene import COLOURS, SHAPES, Object, Scene
from vla.sim.tasks import HORIZON, instruct, named_object
from vla.sim.variation import SEEN, Variation, draw_scene

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
"""Sentences without a meaning: what is lifted under them was not asked for."""


@dataclasses.dataclass(frozen=True)
class Episode:
    """One episode to run.

    Attributes:
        seed: of the scene and the start; equal seeds are equal scenes whatever the instruction.
        kind: whether the drawn object is named, the other one, or nothing is said, or nothing that means anything.
        instruction: a sentence of the user's instead; the object that it names (if any) is put into the scene.
        video: whether frames of both cameras are recorded.
        variation: what differs from training's scenes.
    """

    seed: int
    kind: Kind = "correct"
    instruction: str = ""
    video: bool = False
    horizon: int = HORIZON
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
        target, first: names of the object that should be and of the one that was lifted first ("" is none).
        failure: "" for success, else its class.
        state: hash of the initial state and of what the variation changed.
        malformed: how many answers of the policy were no whole chunk; the robot rested for a step each time.
        restarts: why workers failed in it before it went through; it began anew each time.
        frames: recorded pictures [side, 2 * side, 3], front and wrist.
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

    @property
    def success(self) -> bool:
        return self.failure == ""

    def to_dict(self) -> dict[str, Any]:
        record = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "frames"}
        return {**record, "success": self.success}


def set_up(episode: Episode) -> tuple[Scene, int | None, str]:
    """The scene of an episode, the index of the object that should be lifted, and the instruction."""
    rng = np.random.default_rng((EVALUATION, episode.seed))
    scene = draw_scene(rng, 2 + episode.seed % 2, episode.variation)
    if episode.instruction:
        return _asked_for(scene, episode.instruction)
    wording = np.random.default_rng((EVALUATION, episode.seed, 1))
    if episode.kind == "empty":
        return scene, None, ""
    if episode.kind == "nonsense":
        return scene, None, str(wording.choice(NONSENSE))
    target = 0 if episode.kind == "correct" else 1
    name = episode.variation.noun(scene[target].name)
    wordings = episode.variation.wordings
    return scene, target, str(wording.choice(wordings)).format(name=name) if wordings else instruct(name, wording)


def start_noise(episode: Episode) -> np.random.Generator:
    """What draws the robot's start."""
    return np.random.default_rng((EVALUATION, episode.seed, 2))


def _asked_for(scene: Scene, instruction: str) -> tuple[Scene, int | None, str]:
    """The scene with the object that a user's sentence names, in the place of one of its colour, or of the first."""
    named = named_object(instruction)
    if named and named not in [o.name for o in scene]:
        colour, shape = named.split()
        place = next((i for i, o in enumerate(scene) if o.colour == colour), 0)
        old = scene[place]
        scene = (*scene[:place], Object(colour, shape, old.x, old.y, old.yaw), *scene[place + 1 :])
    target = next((i for i, o in enumerate(scene) if o.name == named), None)
    return scene, target, instruction


def known_objects() -> list[str]:
    """The names that instructions may use."""
    return [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
