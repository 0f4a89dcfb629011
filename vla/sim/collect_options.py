"""What `vla collect` is told."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Collect:
    """What to collect, and how.

    Attributes:
        out: the folder that gets the shards and card.yaml.
        task: one of the tabletop's tasks or of robosuite's own writes its demonstrations, "questions" pictures with questions.
        episodes: demonstrations to write.
        pictures: pictures with questions to write.
        objects: on the table of a question picture; 0 draws one to four.
        numbers: whether questions also ask for numbers, and for what stands for them; the other questions stay the same.
        sizes: whether the objects of demonstrations are small or large, and are named so.
        poses: expert episodes from which the robot's poses in question pictures are taken.
        noise: standard deviation (m) of the disturbance of the expert's actions.
        clean: share of the episodes without disturbance.
        excursions: how often, per step, a disturbed episode goes astray for a while, unrecorded, before it goes on.
        seed: of everything drawn.
        workers: processes; 0 is one per core.
        overwrite: whether data that is already there is replaced.
    """

    out: str
    task: str = "lift"
    episodes: int = 200
    pictures: int = 4000
    objects: int = 0
    numbers: bool = False
    sizes: bool = False
    poses: int = 24
    noise: float = 0.012
    clean: float = 0.25
    excursions: float = 0.06
    seed: int = 0
    workers: int = 0
    overwrite: bool = False
