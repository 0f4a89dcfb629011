"""The record of a training run of reinforcement learning, `results.json` of kind "rl": when each episode ended, and how."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from vla.errors import UserError

FILE = "results.json"
KIND = "rl"
POINTS = 25
"""Equal parts of a run, each one point of its learning curve."""


@dataclasses.dataclass(frozen=True)
class LearningRun:
    """One seed of one condition.

    Attributes:
        task: what was learned.
        condition: what the runs of a comparison differ in.
        seed: of everything drawn.
        budget: hash of what all conditions must share beside the steps: environment, algorithm and its arguments.
        steps: that the run was to take, of all its environments together.
        ends: the step at which each episode ended, in order.
        success: whether it succeeded, 0 or 1.
        more: further keys, kept as they are.
        source: where it was read from; not written.
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
        """Success rate [points] of the episodes that ended in each of so many equal parts of the run; where none did, as before
        (0 at first)."""
        part = np.minimum((np.array(self.ends, int) - 1) * points // self.steps, points - 1)
        rates, last = [], 0.0
        for place in range(points):
            hits = np.array(self.success)[part == place] if self.ends else np.array([])
            last = float(hits.mean()) if len(hits) else last
            rates.append(last)
        return np.array(rates)

    def area(self) -> float:
        """Area under the learning curve, as a share of the whole: the mean success rate over the run."""
        return float(self.curve().mean())

    def until(self, steps: int) -> LearningRun:
        """Its first steps alone, to be compared with runs that took no more: what was learned then knew nothing of the rest."""
        kept = sum(end <= steps for end in self.ends)
        return dataclasses.replace(self, steps=min(steps, self.steps), ends=self.ends[:kept], success=self.success[:kept])

    def save(self, folder: str | Path) -> Path:
        """Writes results.json whole or not at all."""
        path = Path(folder) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("more", "source")}
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        unfinished.write_text(json.dumps({"kind": KIND, **own, **self.more}, allow_nan=False) + "\n", encoding="utf-8")
        unfinished.replace(path)
        return path


def parse_run(data: Any, where: str) -> LearningRun:
    """A run from what JSON holds.

    Raises:
        UserError: a key is missing or of another type, or the episodes are not in order.
    """
    types = {"task": str, "condition": str, "seed": int, "budget": str, "steps": int, "ends": list, "success": list}
    for name, kind in types.items():
        if not isinstance(data.get(name), kind):
            raise UserError(f"`{name}` is missing or no {kind.__name__}", where, f"needed: {', '.join(types)}")
    ends, success = data["ends"], data["success"]
    if data["steps"] < 1 or len(ends) != len(success) or not all(type(e) is int and e > 0 for e in ends) or ends != sorted(ends):
        raise UserError("`ends` are not steps in order, or not as many as `success`", where)
    if not all(s in (0, 1) for s in success):
        raise UserError("`success` holds something else than 0 and 1", where)
    more = {k: v for k, v in data.items() if k not in (*types, "kind")}
    return LearningRun(**{name: data[name] for name in types}, more=more, source=where)


def kind_of(path: str | Path) -> str:
    """What a record says it is, "" where there is none or it does not say."""
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(said.get("kind", "")) if isinstance(said, dict) else ""


def load_run(path: str | Path) -> LearningRun:
    """Reads a run from its folder or file; UserError where it is none."""
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    if kind_of(path) != KIND:
        raise UserError(f"no record of kind {KIND!r}", str(path), "compare runs of `vla rl fit` with one another")
    return dataclasses.replace(parse_run(json.loads(file.read_text(encoding="utf-8")), str(file)), source=str(path))
