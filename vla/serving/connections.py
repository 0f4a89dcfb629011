"""Limits on connections before they become requests: how many are open, and how slowly they may start."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_BODY = b'{"error": {"what": "busy: too many connections", "where": "server", "fix": "retry after 1 s", "retry_after": 1}}'
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


def limited(connections: int, slow_s: float) -> type[H11Protocol]:
    """Returns uvicorn's HTTP protocol with at most that many open connections, and so many seconds for a request's head."""

    class Limited(H11Protocol):
        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > connections:
                transport.write(BUSY)
                transport.close()
            else:
                self._head_timer = self.loop.call_later(slow_s, self.transport.close)

        def handle_events(self) -> None:
            super().handle_events()
            waiting = self.conn.their_state is h11.IDLE and not self.timeout_keep_alive_task
            if not waiting and self._head_timer:
                self._head_timer.cancel()
                self._head_timer = None
            elif waiting and not self._head_timer:
                self._head_timer = self.loop.call_later(slow_s, self.transport.close)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._head_timer:
                self._head_timer.cancel()
            super().connection_lost(exc)

    return Limited
