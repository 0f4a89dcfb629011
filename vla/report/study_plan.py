"""What one arm of a study trains on, and in what two arms differ that should be alike."""

from __future__ import annotations

import dataclasses
from typing import Literal

Shared = Literal["data", "steps", "robot_samples", "start"]
"""In what an arm may be declared to differ from the baseline."""
SHARED: dict[str, str] = {
    "data": "robot data",
    "steps": "number of optimizer steps",
    "robot_samples": "number of robot samples",
    "start": "model to start from",
    "robot": "robot",
}
"""What the arms of a study have in common with the baseline, in words. No arm may have another robot."""
TOLERANCE = 0.01
"""Share by which numbers of robot samples may differ: a batch holds whole samples."""


@dataclasses.dataclass(frozen=True)
class SourceData:
    """What one source of an arm draws from.

    Attributes:
        kind: robot or questions.
        folder: where the data are, or their address.
        content: hash of the data; "" while they are not collected.
        part: settings of the source that choose records and repeat them, as text.
        samples: samples drawn in the whole training.
    """

    kind: str
    folder: str
    content: str
    part: str
    samples: int

    @property
    def identity(self) -> tuple[str, str]:
        return self.content or self.folder, self.part

    def __str__(self) -> str:
        return ", ".join(filter(None, (f"{self.folder} ({self.content[:12] or 'to be collected'})", self.part)))


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """What an arm trains on.

    Attributes:
        steps: optimizer steps.
        sources: by name.
        start: the model that it starts from, as text.
        robot: names and a hash of the robots in its contract, without statistics.
    """

    steps: int
    sources: dict[str, SourceData]
    start: str
    robot: str

    @property
    def robots(self) -> list[SourceData]:
        """The sources of robot data, in an order that does not depend on their names."""
        return sorted((one for one in self.sources.values() if one.kind == "robot"), key=lambda one: one.identity)

    @property
    def robot_samples(self) -> int:
        return sum(one.samples for one in self.robots)

    def texts(self) -> dict[str, str]:
        """What it shares with other arms, as text: the keys of `SHARED`."""
        return {
            "data": "; ".join(map(str, self.robots)) or "none",
            "steps": str(self.steps),
            "robot_samples": " + ".join(str(one.samples) for one in self.robots) or "0",
            "start": self.start,
            "robot": self.robot,
        }


def unequal(baseline: TrainingPlan, other: TrainingPlan) -> dict[str, tuple[str, str]]:
    """Returns in what an arm differs from the baseline: a key of `SHARED` -> the values of both, as text."""
    different = {
        "data": [one.identity for one in baseline.robots] != [one.identity for one in other.robots],
        "steps": baseline.steps != other.steps,
        "robot_samples": not _close([one.samples for one in baseline.robots], [one.samples for one in other.robots]),
        "start": baseline.start != other.start,
        "robot": baseline.robot != other.robot,
    }
    texts = baseline.texts(), other.texts()
    return {key: (texts[0][key], texts[1][key]) for key in SHARED if different[key]}


def _close(one: list[int], other: list[int]) -> bool:
    """Whether the samples of each source are the same but for `TOLERANCE` of all."""
    if len(one) != len(other):
        one, other = [sum(one)], [sum(other)]
    return all(abs(a - b) <= TOLERANCE * sum(one) for a, b in zip(one, other, strict=True))
