"""What a run says when it is done, and how long it took."""

from __future__ import annotations

import dataclasses
import time

import psutil

from vla.report.learning import LearningRun


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        summary: in a line.
        record: the learning curve; None of a run that learned from data, which meets no episodes.
    """

    summary: str
    record: LearningRun | None = None


class Stopwatch:
    """Seconds by the clock, and of all cores together: of this process and of its children that have ended.

    Attributes:
        before: what earlier processes of the run took; set it when the run goes on.
    """

    def __init__(self) -> None:
        self._began = _now()
        self.before = dict.fromkeys(self._began, 0.0)

    def taken(self) -> dict[str, float]:
        """Of the whole run, as "seconds" and "cpu_seconds"."""
        return {name: self.before[name] + now - self._began[name] for name, now in _now().items()}


def _now() -> dict[str, float]:
    return {"seconds": time.perf_counter(), "cpu_seconds": sum(psutil.Process().cpu_times()[:4])}
