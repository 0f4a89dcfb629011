"""What every request passes first: its origin, its key, its client's connections; and the id under which it is logged."""

from __future__ import annotations

import ipaddress
import logging
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vla.serving.clients import Clients
from vla.serving.http import error_response
from vla.serving.metrics import Metrics
from vla.serving.refusal import Refusal

log = logging.getLogger("vla.serving")
OPEN = ("/", "/healthz", "/console.css", "/console.js", "/plots.js")
"""Paths that need no key: they say nothing about the policy. (A websocket at / does need one.)"""


class Gate:
    """ASGI middleware; leaves the client in `request.state.client`."""

    def __init__(self, app: ASGIApp, clients: Clients, metrics: Metrics):
        self.app, self.clients, self.metrics = app, clients, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["type"] == "http" and scope["path"] in OPEN:
            await self.app(scope, receive, send)
            return
        address = scope["client"][0] if scope.get("client") else "unknown"
        try:
            _own_page(headers, scope, keyed=self.clients.keys is not None)
            client = self.clients.identify(headers, address)
            self.clients.enter(client)
        except Refusal as refusal:
            self.metrics.request("gate", refusal.status, 0.0)
            fields = {"address": address, "path": scope["path"][:200], "status": refusal.status, "error": refusal.what}
            log.warning("refused", extra={"fields": fields})
            await _refuse(scope, receive, send, refusal)
            return
        scope.setdefault("state", {})["client"] = client

        async def named(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                message.setdefault("headers", [])
                message["headers"] = [*message["headers"], (b"x-request-id", client.request.encode())]
            await send(message)

        try:
            await self.app(scope, receive, named)
        finally:
            self.clients.leave(client)


def _own_page(headers: dict[str, str], scope: Scope, keyed: bool) -> None:
    """Refuses what another site's page asks of this server through the browser of someone who may.

    Where no key protects, also what comes under a name that was made to lead to this machine's own address (DNS rebinding).
    """
    origin = headers.get("origin")
    if origin is None:
        return
    try:
        site = urlsplit(origin)
    except ValueError:
        site = urlsplit("")
    own = site.netloc == headers.get("host")
    if not keyed and _loopback((scope.get("server") or ("",))[0]):
        own = own and _loopback(site.hostname or "")
    if not own:
        raise Refusal(403, f"a page of {origin[:100]} may not ask this server", "Origin", "open the server's own page")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


async def _refuse(scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
    """An HTTP answer, also to a websocket that is not open yet."""
    prefix = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    answer = error_response(refusal)
    headers: list[Any] = [*answer.raw_headers, (b"connection", b"close")]
    await send({"type": f"{prefix}.start", "status": answer.status_code, "headers": headers})
    await send({"type": f"{prefix}.body", "body": answer.body})
