"""The server process: binds a port, serves the policies, and shuts down after the last answer."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import ipaddress
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from vla.errors import UserError
from vla.policies.base import Policy
from vla.serving.app import create_app
from vla.serving.connections import limited
from vla.serving.keys import Keys
from vla.serving.options import ServerOptions
from vla.serving.service import Service

log = logging.getLogger("vla.serving")
GRACE_S = 10
"""Seconds that requests in progress have when the server shuts down."""
M_ARENA_MAX = -8
"""A constant of glibc's malloc.h."""


class Server(uvicorn.Server):
    """uvicorn's server, which also answers requests in progress before it closes connections, and reloads policies on SIGHUP.

    Args:
        loaders: name -> function that loads that policy again.
    """

    def __init__(self, config: uvicorn.Config, loaders: Mapping[str, Callable[[], Policy]]):
        super().__init__(config)
        self._loaders = loaders
        self._reload_requested = False
        self._reloading: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._loaders and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._request_reload)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await asyncio.gather(*(service.drain() for service in self.services.values()))
        await super().shutdown(sockets)

    @property
    def services(self) -> dict[str, Service]:
        return self.config.app.state.services  # type: ignore[union-attr]

    async def reload(self) -> None:
        """Loads every policy again. A policy that cannot be loaded, or has another contract, stays as it is."""
        for name, load in self._loaders.items():
            try:
                await self.services[name].replace(load)
                log.info("reloaded", extra={"fields": {"policy": name}})
            except Exception as error:  # noqa: BLE001
                log.error("not reloaded, the old policy stays", extra={"fields": {"policy": name, "error": str(error)}})

    def _request_reload(self) -> None:
        self._reload_requested = True
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._reload_as_requested())

    async def _reload_as_requested(self) -> None:
        # A request during a reload starts another one: the files may have changed after they were read.
        while self._reload_requested:
            self._reload_requested = False
            await self.reload()


def bind(host: str, port: int) -> socket.socket:
    """Binds the address; port 0 takes a free one. Raises UserError if that fails."""
    if not 0 <= port < 2**16:
        raise UserError(f"there is no port {port}", f"{host}:{port}", "choose one from 1 to 65535, or 0 for a free one")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen: {error}", f"{host}:{port}", "choose another --port or --host") from None
    return bound


def _server(
    policies: Mapping[str, Policy],
    options: ServerOptions,
    keys: Keys | None,
    tls: tuple[str, str] | None,
    loaders: Mapping[str, Callable[[], Policy]],
) -> Server:
    return Server(configured(create_app(policies, options, keys), options, tls), loaders)


def configured(app: ASGIApp, options: ServerOptions, tls: tuple[str, str] | None = None) -> uvicorn.Config:
    """Returns uvicorn's settings for an application, within the limits of the options.

    Raises:
        UserError: the certificate or its key cannot be read.
    """
    config = uvicorn.Config(
        app,
        http=limited(options.connections, options.slow_s),
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws_max_size=options.message,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=GRACE_S,
        ssl_certfile=tls[0] if tls else None,
        ssl_keyfile=tls[1] if tls else None,
    )
    try:
        config.load()
    except OSError as error:
        raise UserError(
            f"the certificate or its key cannot be read: {error}", "TLS", "give a PEM certificate and the key that belongs to it"
        ) from None
    return config


def _share_heaps() -> None:
    """Limits glibc to two heaps. With a heap per thread, memory of large messages is not given back (195 MiB in a test)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def serve(
    policies: Mapping[str, Policy] | Callable[[], Mapping[str, Policy]],
    host: str = "127.0.0.1",
    port: int = 8000,
    options: ServerOptions | None = None,
    keys: str = "",
    tls: tuple[str, str] | None = None,
    public: bool = False,
    load: Mapping[str, Callable[[], Policy]] | None = None,
) -> None:
    """Serves until SIGTERM or Ctrl-C; requests in progress are answered first.

    Args:
        policies: name -> policy, or a function that loads them, which is called when the address is known to be free; the first
            is also served without its name.
        keys: file of API keys; "" admits everybody, which needs a loopback address or `public`.
        tls: PEM files of the certificate and its key.
        load: name -> function that loads that policy again on SIGHUP.

    Raises:
        UserError: the address cannot be bound, or other machines could use it without a key.
    """
    api_keys = Keys(keys) if keys else None
    for file in tls or ():
        if not Path(file).is_file():
            raise UserError("no such file", file, "give the certificate and its key as PEM files")
    _share_heaps()
    bound = bind(host, port)
    reachable = not ipaddress.ip_address(bound.getsockname()[0].split("%")[0]).is_loopback
    if reachable and api_keys is None and not public:
        bound.close()
        raise UserError(
            "anyone who reaches this address could use the policy",
            f"{host}:{port}",
            "give --keys FILE, or --public to admit everybody",
        )
    policies = policies() if callable(policies) else policies
    server = _server(policies, options or ServerOptions(), api_keys, tls, load or {})
    scheme = "https" if tls else "http"
    address = f"{scheme}://{host if ':' not in host else f'[{host}]'}:{bound.getsockname()[1]}"
    if reachable and not tls:
        log.warning("keys and images travel unencrypted: give --tls_cert and --tls_key, or put a proxy with TLS in front")
    # uvicorn raises the signal again after its shutdown; our handler then ends the program with code 0.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # Until the event loop has its handler, SIGHUP must not end the program.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    digests = ", ".join(f"{name} ({policy.contract.hash[:12]})" for name, policy in policies.items())
    print(f"serving {digests} at {address} (Ctrl-C ends it)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.run([bound])


@contextlib.contextmanager
def running(
    policy: Policy | Mapping[str, Policy],
    host: str = "127.0.0.1",
    port: int = 0,
    options: ServerOptions | None = None,
    keys: Keys | None = None,
    tls: tuple[str, str] | None = None,
) -> Iterator[str]:
    """Serves from a thread of this process while the block runs; yields the URL."""
    policies = policy if isinstance(policy, Mapping) else {"policy": policy}
    with in_thread(_server(policies, options or ServerOptions(), keys, tls, {}), host, port) as address:
        yield f"{'https' if tls else 'http'}://{address}"


@contextlib.contextmanager
def in_thread(server: uvicorn.Server, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Runs a server in a thread of this process while the block runs; yields host:port."""
    bound = bind(host, port)
    thread = threading.Thread(target=server.run, args=([bound],), name="vla-serve", daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.005)
    if not server.started:
        raise RuntimeError("the server did not start; its log says why")
    try:
        yield f"{host}:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(15)
        bound.close()
