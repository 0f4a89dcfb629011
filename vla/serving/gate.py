"""Checks that every request passes first: origin, key, and number of connections. Adds the request's id to the answer."""

from __future__ import annotations

import ipaddress
import logging
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vla.serving.clients import Clients
from vla.serving.http import error_response
from vla.serving.metrics import Metrics
from vla.serving.refusal import Refusal

log = logging.getLogger("vla.serving")
OPEN = ("/", "/healthz", "/console.css", "/console.js", "/plots.js")
"""Paths that need no key, because they show nothing of the policy. (A websocket at / needs one.)"""


class Gate:
    """ASGI middleware that identifies the client and puts it in `request.state.client`."""

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
            _check_origin(headers, scope, keyed=self.clients.keys is not None)
            client = self.clients.identify(headers, address)
            self.clients.enter(client)
        except Refusal as refusal:
            self.metrics.request("gate", refusal.status, 0.0)
            fields = {"address": address, "path": scope["path"][:200], "status": refusal.status, "error": refusal.what}
            log.warning("refused", extra={"fields": fields})
            await _send_refusal(scope, send, refusal)
            return
        scope.setdefault("state", {})["client"] = client

        async def send_with_id(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                message.setdefault("headers", [])
                message["headers"] = [*message["headers"], (b"x-request-id", client.request.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            self.clients.leave(client)


def _check_origin(headers: dict[str, str], scope: Scope, keyed: bool) -> None:
    """Refuses requests that a page of another site sends through a user's browser (cross-site requests).

    A server on a loopback address without keys also refuses foreign host names that resolve to that address (DNS rebinding).
    """
    origin = headers.get("origin")
    if origin is None:
        return
    try:
        site = urlsplit(origin)
    except ValueError:
        site = urlsplit("")
    same_site = site.netloc == headers.get("host")
    if not keyed and _is_loopback((scope.get("server") or ("",))[0]):
        same_site = same_site and _is_loopback(site.hostname or "")
    if not same_site:
        raise Refusal(403, f"a page of {origin[:100]} may not use this server", "Origin", "open the server's own page")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


async def _send_refusal(scope: Scope, send: Send, refusal: Refusal) -> None:
    """Sends the refusal as an HTTP response, also to a websocket handshake."""
    prefix = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    response = error_response(refusal)
    headers: list[tuple[bytes, bytes]] = [*response.raw_headers, (b"connection", b"close")]
    await send({"type": f"{prefix}.start", "status": response.status_code, "headers": headers})
    await send({"type": f"{prefix}.body", "body": response.body})
