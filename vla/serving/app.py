"""The ASGI application: every policy and every protocol behind one port."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from vla.errors import UserError
from vla.policies.base import Policy
from vla.serving import http, openpi
from vla.serving.clients import Clients
from vla.serving.gate import Gate
from vla.serving.keys import Keys
from vla.serving.metrics import Metrics
from vla.serving.options import ServerOptions
from vla.serving.refusal import Refusal, as_refusal
from vla.serving.service import Service

MEDIA_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
CONSOLE = {"/": "console.html", "/console.js": "console.js", "/plots.js": "plots.js", "/console.css": "console.css"}
"""Path -> file of the web console."""
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def create_app(policies: Mapping[str, Policy], options: ServerOptions, keys: Keys | None = None) -> Starlette:
    """Returns the application that serves these policies at /policies/NAME, and the first one at / too.

    Errors are JSON {"error": {"what", "where", "fix"}} with a 4xx or 5xx status (`vla.serving.refusal`). The services are in
    `app.state.services`.
    """
    metrics, clients = Metrics(), Clients(options, keys)
    services = {name: Service(policy, options, metrics) for name, policy in policies.items()}
    all_services = list(services.values())
    metrics.watch("vla_streams", "streams that policies keep state for", lambda: sum(len(s.streams) for s in all_services))
    metrics.watch("vla_active", "requests in progress", lambda: sum(s.active for s in all_services))
    metrics.watch("vla_connections", "connections in use", lambda: sum(clients.open.values()))

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette):
        for service in all_services:
            await service.start()
        yield
        for service in all_services:
            await service.close()

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("OK\n")

    async def show_metrics(_: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    async def list_policies(_: Request) -> Response:
        return JSONResponse({"policies": {name: service.digest for name, service in services.items()}})

    first = all_services[0]
    routes: list[BaseRoute] = [
        Route("/healthz", healthz),
        Route("/metrics", show_metrics),
        Route("/policies", list_policies),
        *(Route(path, page_file("vla.serving", f"console/{name}")) for path, name in CONSOLE.items()),
        *http.routes(first),
        *openpi.routes(first),
    ]
    for name, service in services.items():
        prefix = f"/policies/{name}"
        routes.append(Mount(prefix, routes=[*http.routes(service, prefix), *openpi.routes(service)]))
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(Gate, clients=clients, metrics=metrics)],
        exception_handlers={UserError: _error, ClientDisconnect: _error, HTTPException: _http_error, Exception: _error},
    )
    app.state.services, app.state.metrics = services, metrics
    return app


def page_file(package: str, name: str) -> Callable[[Request], Awaitable[Response]]:
    """Returns an endpoint that sends a file of a package as a part of a page, which loads nothing from other sites."""
    content = files(package).joinpath(name).read_bytes()

    async def show(_: Request) -> Response:
        return Response(content, media_type=MEDIA_TYPES[name.rsplit(".", 1)[1]], headers=PAGE_HEADERS)

    return show


async def _error(_: Request, error: Exception) -> Response:
    return http.error_response(as_refusal(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}: {error.detail}"
    response = http.error_response(Refusal(error.status_code, what, "", "see /docs for the paths and methods"))
    # Starlette names the allowed methods in a header.
    response.headers.update(error.headers or {})
    return response
