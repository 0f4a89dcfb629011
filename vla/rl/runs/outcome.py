"""The outcome of a finished run, and its time."""

from __future__ import annotations

import dataclasses
import time

import psutil

from vla.report.learning import LearningRun


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        summary: the result in one line.
        record: the learning curve; None for a run from data, which has no episodes.
    """

    summary: str
    record: LearningRun | None = None


class Stopwatch:
    """Measures wall-clock seconds, and CPU seconds of this process and its finished children.

    Attributes:
        before: seconds of the run's earlier processes; set it when the run resumes.
    """

    def __init__(self) -> None:
        self._began = _now()
        self.before = dict.fromkeys(self._began, 0.0)

    def taken(self) -> dict[str, float]:
        """Returns the time of the whole run, as "seconds" and "cpu_seconds"."""
        return {name: self.before[name] + now - self._began[name] for name, now in _now().items()}


def _now() -> dict[str, float]:
    return {"seconds": time.perf_counter(), "cpu_seconds": sum(psutil.Process().cpu_times()[:4])}
