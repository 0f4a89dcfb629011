"""Handles signals that end a job, and ends its child processes with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from vla.errors import UserError

VLA = (sys.executable, "-m", "vla")
"""The beginning of a command that runs this program."""
SAVING = 120.0
"""Seconds that training has to save and end: it does so between two steps, and may be in the middle of a rollout."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a job: from the user, from a job manager, from a closed terminal."""


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to end.

    Attributes:
        number: number of the signal.
    """

    def __init__(self, number: int):
        self.number = number
        super().__init__(signal.Signals(number).name)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Makes the `SIGNALS` raise Interrupted within the block, so that open resources are closed. Ignored signals stay ignored."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise Interrupted(number)

    # Only the main thread can handle signals.
    numbers = SIGNALS if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in numbers}
    handled = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in handled:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def child(
    command: Sequence[str],
    patience: float,
    stdout: BinaryIO | int | None = None,
    stderr: int | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a process that ends with the block: by SIGTERM, and if it does not end in time, by SIGKILL to its whole group.

    The process has a session of its own: Ctrl-C on a terminal reaches only the parent, so the child has time to save.

    Args:
        patience: seconds that the process has to end after SIGTERM.
        stdout, stderr, pass_fds: as for `subprocess.Popen`.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=stdout, stderr=stderr, pass_fds=tuple(pass_fds)
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
        finally:
            # Reached also if a second signal ended the wait.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def train(config: Path, checkpoints: Path, lock: int, where: str, fix: str) -> None:
    """Runs `vla fit` in a process of its own, from its newest checkpoint if it has one.

    Args:
        config: the configuration.
        checkpoints: folder of its checkpoints.
        lock: file descriptor that the process inherits: the folder stays locked while it runs, even if this process is killed.
        where, fix: of the error.

    Raises:
        UserError: the training failed; its own error is on the terminal.
    """
    command = [*VLA, "fit", "-c", str(config)]
    if any(checkpoints.glob("*.ckpt")):
        command += ["--ckpt_path=last"]
    with child(command, SAVING, pass_fds=(lock,)) as process:
        code = process.wait()
    if code:
        raise UserError(f"training ended with exit code {code}", where, fix)
