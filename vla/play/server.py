"""Runs a session's page on this machine, for this machine only."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator

import uvicorn

from vla.play.app import OPTIONS, create_app
from vla.play.session import Session
from vla.serving.server import bind, configured, in_thread

HOST = "127.0.0.1"


def play(open_session: Callable[[], contextlib.AbstractContextManager[Session]], port: int, ready: Callable[[str], None]) -> None:
    """Shows a session until SIGTERM or Ctrl-C.

    Args:
        open_session: opens it, once the port is known to be free.
        port: port on the loopback address; 0 takes a free one.
        ready: is called with the page's address.

    Raises:
        UserError: the port is in use, or the session cannot be opened.
    """
    with contextlib.closing(bind(HOST, port)) as bound:
        # uvicorn raises the signal again after its shutdown; what was saved is then completed.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with contextlib.suppress(KeyboardInterrupt), open_session() as session:
            ready(f"http://{HOST}:{bound.getsockname()[1]}")
            uvicorn.Server(configured(create_app(session), OPTIONS)).run([bound])


@contextlib.contextmanager
def showing(session: Session) -> Iterator[str]:
    """Shows a session from a thread of this process while the block runs; yields the page's address."""
    with in_thread(uvicorn.Server(configured(create_app(session), OPTIONS))) as address:
        yield f"http://{address}"
