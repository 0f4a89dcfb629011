"""Predicts when streams send their next request. A batch that starts a moment too early runs half empty."""

from __future__ import annotations

EXPIRES_S = 1.0
"""Seconds after its last answer from which a stream is not expected any more."""


class Pace:
    """Expects each stream to take as long from an answer to its next request as it did the last time."""

    def __init__(self) -> None:
        # Stream -> time of its last answer, oldest first.
        self._answered: dict[str, float] = {}
        self._pauses: dict[str, float] = {}

    def requested(self, stream: str, now: float) -> None:
        answered = self._answered.pop(stream, None)
        if answered is not None:
            self._pauses[stream] = now - answered

    def answered(self, stream: str, now: float) -> None:
        self._answered.pop(stream, None)
        self._answered[stream] = now

    def forget(self, stream: str) -> None:
        self._answered.pop(stream, None)
        self._pauses.pop(stream, None)

    def anybody(self) -> bool:
        """Whether there is a stream that may be expected at all."""
        return bool(self._answered)

    def expected(self, now: float, until: float) -> int:
        """Returns how many streams will probably send a request before `until`."""
        while self._answered and now - next(iter(self._answered.values())) > EXPIRES_S:
            self.forget(next(iter(self._answered)))
        count = 0
        for stream, answered in self._answered.items():
            pause = self._pauses.get(stream, 0.0)
            # A stream is expected from its usual pause to twice that, plus the time that anybody is waited for.
            count += answered + pause <= until and now <= answered + 2 * pause + (until - now)
        return count
