"""How a training loop's time divides into waiting for data and working."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class WaitClock:
    """Measures the time spent waiting for data and the time spent working, from the first batch on."""

    def __init__(self) -> None:
        self._waiting = self._working = self._since = 0.0

    def arrived(self) -> None:
        """A batch is there: the time since the last one was done was waiting."""
        now = time.perf_counter()
        self._waiting += now - self._since if self._since else 0.0
        self._since = now

    def done(self) -> None:
        """The batch is done: the time since it arrived was work."""
        now = time.perf_counter()
        self._working += now - self._since
        self._since = now

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens here is neither."""
        began = time.perf_counter()
        yield
        if self._since:
            self._since += time.perf_counter() - began

    def restart(self) -> None:
        """The time until the next batch is neither."""
        self._since = 0.0

    def take(self) -> float:
        """The share of waiting since the last call."""
        share = self._waiting / max(self._waiting + self._working, 1e-9)
        self._waiting = self._working = 0.0
        return share
