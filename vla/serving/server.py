"""`vla serve`: one port, from binding it to the last answer."""

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

from vla.errors import UserError
from vla.policies.base import Policy
from vla.serving.app import create_app
from vla.serving.connections import limited
from vla.serving.keys import Keys
from vla.serving.options import Options

log = logging.getLogger("vla.serving")
GRACE_S = 10
"""Seconds that requests under way have when the server goes down."""
M_ARENA_MAX = -8
"""From glibc's malloc.h."""


class Server(uvicorn.Server):
    """uvicorn's, but what is under way is answered before connections are closed; SIGHUP reloads the policies.

    Args:
        load: name -> what loads that policy again.
    """

    def __init__(self, config: uvicorn.Config, load: Mapping[str, Callable[[], Policy]]):
        super().__init__(config)
        self._load = load
        self._asked = False
        self._reloading: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._load and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await asyncio.gather(*(service.drain() for service in self.services.values()))
        await super().shutdown(sockets)

    @property
    def services(self):
        return self.config.app.state.services  # type: ignore[union-attr]

    async def reload(self) -> None:
        """Loads every policy again; one that cannot be had, or that holds another contract, is left as it is."""
        for name, load in self._load.items():
            try:
                await self.services[name].replace(load)
                log.info("reloaded", extra={"fields": {"policy": name}})
            except Exception as error:  # noqa: BLE001
                log.error("not reloaded, the old one goes on", extra={"fields": {"policy": name, "error": str(error)}})

    def _hang_up(self) -> None:
        self._asked = True
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._reload_when_asked())

    async def _reload_when_asked(self) -> None:
        # Asked again meanwhile: what has been read may be older than what is meant.
        while self._asked:
            self._asked = False
            await self.reload()


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


def _server(
    policies: Mapping[str, Policy],
    options: Options,
    keys: Keys | None,
    tls: tuple[str, str] | None,
    load: Mapping[str, Callable[[], Policy]],
) -> Server:
    config = uvicorn.Config(
        create_app(policies, options, keys),
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
            f"the certificate or its key cannot be read: {error}", "TLS", "give PEM files that belong together"
        ) from None
    return Server(config, load)


def _share_heaps() -> None:
    """Threads share two of glibc's heaps: what big messages leave in one of their own is not given back (195 MiB in a test)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def serve(
    policies: Mapping[str, Policy],
    host: str = "127.0.0.1",
    port: int = 8000,
    options: Options | None = None,
    keys: str = "",
    tls: tuple[str, str] | None = None,
    public: bool = False,
    load: Mapping[str, Callable[[], Policy]] | None = None,
) -> None:
    """Serves until SIGTERM or Ctrl-C; requests under way are answered first.

    Args:
        policies: name -> policy; the first is also served without its name.
        keys: file of API keys; "" lets everybody in, which only a loopback address may unless `public`.
        tls: PEM files of the certificate and its key.
        load: name -> what loads that policy again on SIGHUP.

    Raises:
        UserError: the address cannot be had, or others could reach it without a key.
    """
    held = Keys(keys) if keys else None
    for file in tls or ():
        if not Path(file).is_file():
            raise UserError("no such file", file, "give the certificate and its key as PEM files")
    _share_heaps()
    bound = _bind(host, port)
    reachable = not ipaddress.ip_address(bound.getsockname()[0].split("%")[0]).is_loopback
    if reachable and held is None and not public:
        bound.close()
        raise UserError(
            "anyone who reaches this address could use the policy",
            f"{host}:{port}",
            "give --keys FILE, or --public if that is what you want",
        )
    server = _server(policies, options or Options(), held, tls, load or {})
    scheme = "https" if tls else "http"
    address = f"{scheme}://{host if ':' not in host else f'[{host}]'}:{bound.getsockname()[1]}"
    if reachable and not tls:
        log.warning("keys and pictures travel unencrypted: give --tls_cert and --tls_key, or put a proxy with TLS in front")
    # uvicorn raises the signal again when it has closed everything; a handler of ours then ends the program with code 0.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # Until the loop has its handler: a reload asked for during warm-up must not end the program.
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
    options: Options | None = None,
    keys: Keys | None = None,
    tls: tuple[str, str] | None = None,
) -> Iterator[str]:
    """Serves from a thread of this process while the block runs; yields the address."""
    bound = _bind(host, port)
    policies = policy if isinstance(policy, Mapping) else {"policy": policy}
    server = _server(policies, options or Options(), keys, tls, {})
    thread = threading.Thread(target=server.run, args=([bound],), name="vla-serve", daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.005)
    if not server.started:
        raise RuntimeError("the server did not start; its log says why")
    try:
        yield f"{'https' if tls else 'http'}://{host}:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(15)
        bound.close()
