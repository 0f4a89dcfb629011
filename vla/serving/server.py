"""`vla serve`: one policy behind one port."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from vla.errors import ContractMismatch, UserError
from vla.policies.base import Policy
from vla.serving import http, websocket
from vla.serving.runner import Runner
from vla.serving.wire import MAX_BYTES

log = logging.getLogger("vla.serving")


def create_app(policy: Policy) -> FastAPI:
    """The application that serves the policy. Errors are JSON {"error": {"what", "where", "fix"}} with a 4xx or 5xx status.

    400 is a request that cannot be read, 422 one that does not fit the contract, 409 another contract, 413 too long a body, 500
    the policy's own failure (its traceback goes to the server's log only).
    """
    runner = Runner(policy)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI):
        yield
        runner.close()

    # The interactive documentation loads scripts from elsewhere.
    app = FastAPI(title="vla serve", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.include_router(http.routes(runner))
    app.include_router(websocket.routes(runner))
    app.add_exception_handler(UserError, _refuse)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _fault)
    return app


def _error(status: int, what: str, fix: str = "", where: str = "") -> JSONResponse:
    return JSONResponse({"error": {"what": what, "where": where, "fix": fix}}, status)


def _refuse(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, UserError)
    status = error.status if isinstance(error, http.Refusal) else 422 if isinstance(error, ContractMismatch) else 400
    return _error(status, error.what, error.fix, error.where)


def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, f"{request.method} {request.url.path}: {error.detail}", "see / for what can be asked")


def _fault(_: Request, error: Exception) -> JSONResponse:
    return _error(500, f"the policy failed with {type(error).__name__}", "see the server's log")


def _bind(host: str, port: int) -> socket.socket:
    """A listening address; UserError where it cannot be had. Port 0 takes a free one."""
    if not 0 <= port < 2**16:
        raise UserError(f"there is no port {port}", f"{host}:{port}", "choose one from 1 to 65535, or 0 for any that is free")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen: {error}", f"{host}:{port}", "choose another --port or --host") from None
    return bound


def _server(policy: Policy) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            create_app(policy),
            log_level="warning",
            ws_max_size=MAX_BYTES,
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=10,
        )
    )


def serve(policy: Policy, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serves until SIGTERM or Ctrl-C; requests under way are answered first.

    Raises:
        UserError: the address cannot be had.
    """
    bound = _bind(host, port)
    address = f"http://{host if ':' not in host else f'[{host}]'}:{bound.getsockname()[1]}"
    if not bound.getsockname()[0].startswith(("127.", "::1")):
        log.warning("anyone who reaches %s can use this policy: there is no key yet", address)
    # uvicorn raises the signal again when it has closed everything; a handler of ours then ends the program with code 0.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"serving contract {policy.contract.hash[:12]} at {address} (Ctrl-C ends it)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        _server(policy).run([bound])


@contextlib.contextmanager
def running(policy: Policy, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serves from a thread of this process while the block runs; yields the address."""
    bound = _bind(host, port)
    server = _server(policy)
    thread = threading.Thread(target=server.run, args=([bound],), name="vla-serve", daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    if not server.started:
        raise RuntimeError("the server did not start; its log says why")
    try:
        yield f"http://{host}:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(15)
        bound.close()
