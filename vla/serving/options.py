"""The limits of a server and how it batches."""

from __future__ import annotations

import dataclasses

from vla.errors import UserError

LADDER = (1, 4, 16)
"""Batch sizes of a local model. The last digits of answers depend on the size, so there are few, and an answer names its own."""


def ladder(batch: int) -> list[int]:
    """Returns the batch sizes up to `batch`, ascending."""
    return sorted({min(shape, batch) for shape in (*LADDER, batch)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Limits and batching of a server.

    Attributes:
        batch: maximum number of observations per call of the policy; 1 disables batching.
        wait_ms: maximum time that the first request of a batch waits for others. It waits only for streams that are expected to
            send one by then, and no longer than a call of the policy takes.
        queue: maximum number of waiting requests; further ones get status 503.
        deadline_s: seconds after which an unanswered request fails; a client may set a shorter deadline.
        idle_s: seconds after which the state of a silent stream is dropped.
        streams: maximum number of streams with state; the one silent for longest is dropped first.
        message: maximum size of a request in bytes.
        side: maximum side of an image in pixels; a small file can hold an image that fills the memory.
        connections: maximum number of open connections of all clients together.
        per_key: maximum number of connections in use per key, or per address on a server without keys.
        rate: maximum requests per second per key or address; 0 sets no limit.
        slow_s: seconds in which the head of a request, and then its body, must arrive.
        strict: refuse a state that is far outside the contract's range; otherwise it is served with a warning.
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
    strict: bool = False

    def __post_init__(self):
        for field in ("batch", "queue", "deadline_s", "idle_s", "streams", "message", "side", "connections", "per_key", "slow_s"):
            if getattr(self, field) <= 0:
                raise UserError(f"{field} is {getattr(self, field)}", "vla serve", "give a number above 0")
        for field in ("wait_ms", "rate"):
            if getattr(self, field) < 0:
                raise UserError(f"{field} is {getattr(self, field)}", "vla serve", "give 0 or more")
