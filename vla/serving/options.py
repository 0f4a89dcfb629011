"""What a server allows and how it batches: one place for every limit."""

from __future__ import annotations

import dataclasses

from vla.errors import UserError

LADDER = (1, 4, 16)
"""Batch shapes of a local model. Answers differ in the last digits between shapes: they are few, and an answer names its own."""


def ladder(batch: int) -> list[int]:
    """The shapes of calls with at most `batch` rows, ascending."""
    return sorted({min(shape, batch) for shape in (*LADDER, batch)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How a server behaves.

    Attributes:
        batch: most observations in one call of the policy; 1 is batching off.
        wait_ms: longest time that the first of a batch waits for others. It waits only for streams that are expected to ask by
            then, and no longer than a call of the policy takes.
        queue: requests that may wait; one more is told to come back.
        deadline_s: seconds until an unanswered request is given up; a client may ask for less.
        idle_s: seconds after which what the policy keeps for a silent stream is forgotten.
        streams: streams that are kept; the one longest silent goes first.
        message: bytes of a request.
        side: longest side of an image in pixels; a small file can hold an image that fills the memory.
        connections: open connections, of all clients together.
        per_key: connections of one key (or of one address, where there are no keys) that are in use at once.
        rate: requests per second of one key or address; 0 is as many as come.
        slow_s: seconds that a request's head, and then its body, may take to arrive.
    """

    batch: int = 16
    wait_ms: float = 20.0
    queue: int = 64
    deadline_s: float = 30.0
    idle_s: float = 600.0
    streams: int = 4096
    message: int = 32 * 2**20
    side: int = 4096
    connections: int = 256
    per_key: int = 128
    rate: float = 0.0
    slow_s: float = 20.0

    def __post_init__(self):
        for field in ("batch", "queue", "deadline_s", "idle_s", "streams", "message", "side", "connections", "per_key", "slow_s"):
            if getattr(self, field) <= 0:
                raise UserError(f"{field} is {getattr(self, field)}", "vla serve", "give a number above 0")
        for field in ("wait_ms", "rate"):
            if getattr(self, field) < 0:
                raise UserError(f"{field} is {getattr(self, field)}", "vla serve", "give 0 or more")
