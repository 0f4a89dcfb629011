"""The web side of a session: its page, and one websocket for each browser."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from vla.play.live import Live
from vla.play.session import Session
from vla.serving.app import page_file
from vla.serving.clients import Clients
from vla.serving.gate import Gate
from vla.serving.metrics import Metrics
from vla.serving.options import ServerOptions

FILES = {
    "/": ("vla.play", "page/play.html"),
    "/play.js": ("vla.play", "page/play.js"),
    "/play.css": ("vla.play", "page/play.css"),
    "/plots.js": ("vla.serving", "console/plots.js"),
    "/console.css": ("vla.serving", "console/console.css"),
}
"""Path -> package and file; what the page has in common with the server's console is the console's."""
OPTIONS = ServerOptions(message=2**16, connections=64)
"""Its limits: a browser sends short texts only."""


def create_app(session: Session) -> Starlette:
    """Returns the application that shows a session.

    At /live a browser receives, whenever something has changed, the state as JSON (`Session.state`, `Live`) and then so many
    images (JPEG) as its `frames` says. It sends requests as JSON (`Live.do`). A browser that is slow misses states.
    """
    live = Live(session)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette):
        live.start()
        yield
        await live.close()

    async def watch(socket: WebSocket) -> None:
        await socket.accept()
        await live.enter()
        sending = asyncio.create_task(_send(socket, live))
        try:
            while (message := await socket.receive())["type"] != "websocket.disconnect":
                await live.do(message.get("text") or "")
        finally:
            sending.cancel()
            await live.leave()

    routes = [*(Route(path, page_file(*file)) for path, file in FILES.items()), WebSocketRoute("/live", watch)]
    gate = Middleware(Gate, clients=Clients(OPTIONS), metrics=Metrics())
    return Starlette(routes=routes, lifespan=lifespan, middleware=[gate])


async def _send(socket: WebSocket, live: Live) -> None:
    version = -1
    with contextlib.suppress(WebSocketDisconnect, ConnectionError, RuntimeError):
        while True:
            version, state, frames = await live.newer(version)
            await socket.send_text(state)
            for frame in frames:
                await socket.send_bytes(frame)
