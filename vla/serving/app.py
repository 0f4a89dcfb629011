"""The application: all protocols of all policies behind one port."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from importlib.resources import files

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from vla.errors import UserError
from vla.policies.base import Policy
from vla.serving import http, openpi
from vla.serving.clients import Clients
from vla.serving.gate import Gate
from vla.serving.keys import Keys
from vla.serving.metrics import Metrics
from vla.serving.options import Options
from vla.serving.refusal import Refusal, refused
from vla.serving.service import Service

KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
LOCKED_PAGE = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def create_app(policies: Mapping[str, Policy], options: Options, keys: Keys | None = None) -> Starlette:
    """The application that serves these policies; the first also without its name.

    Errors are JSON {"error": {"what", "where", "fix"}} with a 4xx or 5xx status (`vla.serving.refusal`). The services are in
    `app.state.services`.
    """
    metrics, clients = Metrics(), Clients(options, keys)
    services = {name: Service(policy, options, metrics) for name, policy in policies.items()}
    everyone = list(services.values())
    metrics.watch("vla_streams", "streams that policies keep something for", lambda: sum(len(s.streams) for s in everyone))
    metrics.watch("vla_active", "requests under way", lambda: sum(s.active for s in everyone))
    metrics.watch("vla_connections", "connections in use", lambda: sum(clients.open.values()))

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette):
        for service in everyone:
            await service.start()
        yield
        for service in everyone:
            await service.close()

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("OK\n")

    async def show_metrics(_: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    async def names(_: Request) -> Response:
        return JSONResponse({"policies": {name: service.digest for name, service in services.items()}})

    first = everyone[0]
    paths: list[BaseRoute] = [
        Route("/healthz", healthz),
        Route("/metrics", show_metrics),
        Route("/policies", names),
        *(Route(path, _file(name)) for path, name in _console().items()),
        *http.routes(first),
        *openpi.routes(first),
    ]
    for name, service in services.items():
        prefix = f"/policies/{name}"
        paths.append(Mount(prefix, routes=[*http.routes(service, prefix), *openpi.routes(service)]))
    app = Starlette(
        routes=paths,
        lifespan=lifespan,
        middleware=[Middleware(Gate, clients=clients, metrics=metrics)],
        exception_handlers={UserError: _refuse, HTTPException: _http_error, Exception: _fault},
    )
    app.state.services, app.state.metrics = services, metrics
    return app


def _console() -> dict[str, str]:
    return {"/": "console.html", "/console.js": "console.js", "/plots.js": "plots.js", "/console.css": "console.css"}


def _file(name: str):
    content = files("vla.serving").joinpath("console", name).read_bytes()

    async def show(_: Request) -> Response:
        return Response(content, media_type=KINDS[name.rsplit(".", 1)[1]], headers=LOCKED_PAGE)

    return show


async def _refuse(_: Request, error: Exception) -> Response:
    return http.error_response(refused(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}: {error.detail}"
    response = http.error_response(Refusal(error.status_code, what, "", "see /docs for what can be asked"))
    # Which methods there are.
    response.headers.update(error.headers or {})
    return response


async def _fault(_: Request, error: Exception) -> Response:
    return http.error_response(refused(error))
