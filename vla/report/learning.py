"""The record of a reinforcement-learning run, `results.json` of kind "rl": when each episode ended, and how."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vla.errors import UserError

FILE = "results.json"
KIND = "rl"
POINTS = 25
"""Number of points of a learning curve; each covers an equal part of the run."""


@dataclasses.dataclass(frozen=True)
class LearningRun:
    """One seed of one condition.

    Attributes:
        task: what was learned.
        condition: name of the condition; the runs of a comparison differ in it.
        seed: random seed of the run.
        budget: hash of what all conditions must share beside the steps: environment, algorithm and its arguments.
        steps: planned number of steps, summed over the environments.
        ends: the step at which each episode ended, in order.
        success: whether each episode succeeded, 0 or 1.
        more: further keys, kept as they are.
        source: the folder or file that the run was read from; not written.
    """

    task: str
    condition: str
    seed: int
    budget: str
    steps: int
    ends: list[int]
    success: list[int]
    more: dict[str, Any] = dataclasses.field(default_factory=dict)
    source: str = ""

    def curve(self, points: int = POINTS) -> np.ndarray:
        """Returns the learning curve [points]: the success rate of the episodes that ended in each of `points` equal parts.

        A part in which no episode ended repeats the previous rate, 0 at the start.
        """
        part_of = np.minimum((np.array(self.ends, int) - 1) * points // self.steps, points - 1)
        rates, last = [], 0.0
        for part in range(points):
            successes = np.array(self.success)[part_of == part] if self.ends else np.array([])
            last = float(successes.mean()) if len(successes) else last
            rates.append(last)
        return np.array(rates)

    def area(self) -> float:
        """Returns the area under the learning curve as a share of its maximum: the mean success rate over the run."""
        return float(self.curve().mean())

    def until(self, steps: int) -> LearningRun:
        """Returns the first steps of the run, for a comparison with shorter runs: no step depends on later ones."""
        kept = sum(end <= steps for end in self.ends)
        return dataclasses.replace(self, steps=min(steps, self.steps), ends=self.ends[:kept], success=self.success[:kept])

    def save(self, folder: str | Path) -> Path:
        """Writes results.json atomically."""
        path = Path(folder) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("more", "source")}
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        unfinished.write_text(json.dumps({"kind": KIND, **own, **self.more}, allow_nan=False) + "\n", encoding="utf-8")
        unfinished.replace(path)
        return path


def parse_run(data: Mapping[str, Any], where: str) -> LearningRun:
    """Makes a run from parsed JSON.

    Raises:
        UserError: a key is missing or has the wrong type, or the episodes are not in order.
    """
    types = {"task": str, "condition": str, "seed": int, "budget": str, "steps": int, "ends": list, "success": list}
    for name, kind in types.items():
        if not isinstance(data.get(name), kind):
            raise UserError(f"`{name}` is missing or not of type {kind.__name__}", where, f"required keys: {', '.join(types)}")
    ends, success = data["ends"], data["success"]
    if data["steps"] < 1 or len(ends) != len(success) or not all(type(e) is int and e > 0 for e in ends) or ends != sorted(ends):
        raise UserError("`ends` must hold steps in order, one for each of `success`, and `steps` must be positive", where)
    if not all(s in (0, 1) for s in success):
        raise UserError("`success` must hold only 0 and 1", where)
    more = {k: v for k, v in data.items() if k not in (*types, "kind")}
    return LearningRun(**{name: data[name] for name in types}, more=more, source=where)


def kind_of(path: str | Path) -> str:
    """Returns the `kind` of a record; "" if it has none or cannot be read."""
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(record.get("kind", "")) if isinstance(record, dict) else ""


def load_run(path: str | Path) -> LearningRun:
    """Reads a run from its folder or file.

    Raises:
        UserError: there is no run, or it does not keep to the format.
    """
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    if kind_of(path) != KIND:
        raise UserError(f"not a record of kind {KIND!r}", str(path), "compare runs of `vla rl fit` only with one another")
    return dataclasses.replace(parse_run(json.loads(file.read_text(encoding="utf-8")), str(file)), source=str(path))
