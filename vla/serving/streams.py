"""Which streams a policy keeps something for: what is silent for long is forgotten."""

from __future__ import annotations

import time
from collections import OrderedDict


class Streams:
    """The streams by the time they were last heard of.

    Args:
        idle_s: seconds after which a silent stream has expired.
        most: streams that are kept; beyond them the longest silent expire at once.
    """

    def __init__(self, idle_s: float, most: int):
        self.idle_s, self.most = idle_s, most
        self._heard: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._heard)

    def touch(self, stream: str) -> None:
        self._heard[stream] = time.monotonic()
        self._heard.move_to_end(stream)

    def drop(self, streams: list[str]) -> None:
        for stream in streams:
            self._heard.pop(stream, None)

    def expired(self) -> list[str]:
        """Takes out and returns the streams whose state is to be forgotten."""
        limit, gone = time.monotonic() - self.idle_s, []
        while self._heard and (len(self._heard) > self.most or next(iter(self._heard.values())) < limit):
            gone.append(self._heard.popitem(last=False)[0])
        return gone
