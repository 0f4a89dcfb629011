"""The streams for which a policy keeps state, until they have been silent for too long."""

from __future__ import annotations

import time
from collections import OrderedDict


class Streams:
    """The streams, ordered by their last request.

    Args:
        idle_s: seconds after which a silent stream has expired.
        most: maximum number of streams; beyond it, those silent for longest expire at once.
    """

    def __init__(self, idle_s: float, most: int):
        self.idle_s, self.most = idle_s, most
        self._last_request: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._last_request)

    def touch(self, stream: str) -> None:
        self._last_request[stream] = time.monotonic()
        self._last_request.move_to_end(stream)

    def drop(self, streams: list[str]) -> None:
        for stream in streams:
            self._last_request.pop(stream, None)

    def expired(self) -> list[str]:
        """Removes and returns the streams that have expired."""
        limit, expired = time.monotonic() - self.idle_s, []
        while self._last_request and (len(self._last_request) > self.most or next(iter(self._last_request.values())) < limit):
            expired.append(self._last_request.popitem(last=False)[0])
        return expired
