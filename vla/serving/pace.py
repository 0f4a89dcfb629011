"""When streams are expected to ask again: a batch that starts a moment too early runs half empty."""

from __future__ import annotations

ABOUT_S = 1.0
"""A stream that has not asked again so long after its last answer is not waited for."""


class Pace:
    """Learns how long each stream takes from an answer to its next request, and expects it to take as long again."""

    def __init__(self) -> None:
        # By the time of the answer, the longest ago first.
        self._answered: dict[str, float] = {}
        self._takes: dict[str, float] = {}

    def asked(self, stream: str, now: float) -> None:
        answered = self._answered.pop(stream, None)
        if answered is not None:
            self._takes[stream] = now - answered

    def answered(self, stream: str, now: float) -> None:
        self._answered.pop(stream, None)
        self._answered[stream] = now

    def gone(self, stream: str) -> None:
        self._answered.pop(stream, None)
        self._takes.pop(stream, None)

    def coming(self, now: float, until: float) -> int:
        """How many streams will probably ask before `until`: those whose time has come, and is not long over."""
        while self._answered and now - next(iter(self._answered.values())) > ABOUT_S:
            self.gone(next(iter(self._answered)))
        count = 0
        for stream, answered in self._answered.items():
            takes = self._takes.get(stream, 0.0)
            # Twice the usual time, and as long as anybody is waited for.
            count += answered + takes <= until and now <= answered + 2 * takes + (until - now)
        return count
