"""The options of `vla collect`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

Report = Callable[[int, int, str], None]
"""Called with (done, of how many, a word on how it goes)."""


@dataclasses.dataclass
class Collect:
    """What to collect, and how.

    Attributes:
        out: folder that gets the shards and card.yaml.
        task: demonstrations of "lift", "put", "push" or "stack", or of one of robosuite's own tasks, e.g. "robosuite-Lift";
            "questions" for images with questions.
        episodes: demonstrations to write.
        images: images with questions to write.
        objects: number of objects on the table in an image with questions; 0 draws one to four.
        numbers: add questions about numbers and the symbols for them (suite rt2/symbols); the other questions stay the same.
        wide: ask about a wide world: colours, shapes, words, numbers and symbols that no demonstration has, and table tops,
            rooms, lights, cameras and heights that are no suite's.
        sizes: make the objects of demonstrations small or large, and mention their size.
        every_task: demonstrate in scenes in which every task of the tabletop is possible, so that the sentence alone says what
            is to be done. With one seed the scenes of all tasks are the same. Questions are then about such objects and
            receptacles.
        destinations: once the object of put or stack is held, or the gripper is down to push one, `point` and `reach` are of what
            it belongs on or beside instead, so that a plan made of them leads to the end.
        step_questions: share of the steps of demonstrations that get questions on their own image: where an object is, what is
            held, which way an object is from the gripper.
        poses: expert episodes from which the robot's poses in images with questions are taken.
        noise: standard deviation (m) of the disturbance of the expert's actions.
        clean: fraction of the episodes without disturbance.
        excursions: probability per step that a disturbed episode leaves its path for a while, without recording.
        policy: a policy that acts, as for `vla rollout`; an expert says what it would have done in each state (DAgger). noise,
            clean and excursions then have no effect. An interrupted run goes on.
        expert: the expert beside a policy: "" is the task's scripted one; or another policy, as for `vla rollout`.
        beta: probability that the expert acts instead of the policy, drawn anew every eight steps.
        batch: rows per call of a local policy; 0 is 2.
        seed: random seed.
        workers: number of processes; 0 is one per core.
        overwrite: replace existing data.
    """

    out: str
    task: str = "lift"
    episodes: int = 200
    images: int = 4000
    objects: int = 0
    numbers: bool = False
    wide: bool = False
    sizes: bool = False
    every_task: bool = False
    destinations: bool = False
    step_questions: float = 0.0
    poses: int = 24
    noise: float = 0.012
    clean: float = 0.25
    excursions: float = 0.06
    policy: str = ""
    expert: str = ""
    beta: float = 0.0
    batch: int = 0
    seed: int = 0
    workers: int = 0
    overwrite: bool = False
