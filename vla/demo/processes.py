"""A job that is told to end, and its child processes, which end with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

VLA = (sys.executable, "-m", "vla")
"""This program, as a child's command begins."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Told to end: by the user, by whatever runs the job, by a terminal that is closed."""


class Interrupted(KeyboardInterrupt):
    """The process was told to end.

    Attributes:
        number: the signal's.
    """

    def __init__(self, number: int):
        self.number = number
        super().__init__(signal.Signals(number).name)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within the block a signal to end raises Interrupted, so that what is open is closed. Ignored signals stay ignored."""

    def tell(number: int, _: Any) -> None:
        raise Interrupted(number)

    # Only the main thread can take signals.
    mine = SIGNALS if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in mine}
    heard = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in heard:
        signal.signal(number, tell)
    try:
        yield
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def child(command: Sequence[str], patience: float, **options: Any) -> Iterator[subprocess.Popen]:
    """A process that ends with the block: it is asked to (SIGTERM), and after some time killed, with all that it started.

    It has a session of its own: Ctrl-C on a terminal reaches this process alone, and the child is not cut off but asked.

    Args:
        patience: seconds that it has to end by itself.
        options: more for Popen.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
        finally:
            # Also where a second signal ended the wait.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
