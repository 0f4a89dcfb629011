"""The stage that serves the export and checks that one action equals the local policy's."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vla.demo.processes import VLA, child
from vla.errors import UserError

if TYPE_CHECKING:
    from vla.policies.remote import RemotePolicy

ENDING = 20.0
"""Seconds that the server has to end after SIGTERM."""
LOG_LINES = 12
"""Number of the log's last lines that an error shows."""


def compare(export: Path, robot: Path, log: Path) -> dict[str, Any]:
    """Serves the export in a separate process and compares its action on the first sample of the data with the local policy's.

    Args:
        export: folder of the policy.
        robot: folder of robot data.
        log: file that gets the server's output.

    Raises:
        UserError: the server does not start, or its action differs; the error shows the end of its log.
    """
    from vla.datasets.robot import RobotSource
    from vla.observation import Observation
    from vla.policies.local import LocalPolicy

    with served(export, log) as connect:
        sample = RobotSource(robot, chunk=1).sample(0, np.random.default_rng(0))
        observation = Observation("demo", sample.images, sample.state, sample.instruction, sample.embodiment)
        local = LocalPolicy.from_export(export)
        remote = connect()
        if remote.contract.hash != local.contract.hash:
            raise UserError(f"the server holds contract {remote.contract.hash}, the export {local.contract.hash}", "demo")
        if not np.array_equal(remote.act([observation])[0].actions, local.act([observation])[0].actions):
            raise UserError("the server's action differs from the local policy's", "demo", "please report this")
    return {"said": f"the server's action equals the local policy's, contract {local.contract.hash[:12]}", "same": True}


@contextlib.contextmanager
def served(export: Path, log: Path) -> Iterator[Callable[[], RemotePolicy]]:
    """Runs `vla serve` in a separate process during the block; yields a function that waits for the server and connects to it.

    A UserError raised in the block gets the end of the server's log added.
    """
    port = _free_port()
    with log.open("wb") as file:
        command = [*VLA, "serve", str(export), "--port", str(port)]
        with child(command, ENDING, stdout=file, stderr=subprocess.STDOUT) as process:
            try:
                yield lambda: _connect(f"http://127.0.0.1:{port}", process)
            except UserError as error:
                last = log.read_text(errors="replace").strip().splitlines()[-LOG_LINES:] or ["(nothing)"]
                lines = "\n".join(f"  {line}" for line in last)
                raise UserError(f"{error.what}\nEnd of the server's log ({log}):\n{lines}", error.where, error.fix) from error


def _connect(url: str, process: subprocess.Popen) -> RemotePolicy:
    """Waits until the server answers and connects to it."""
    from vla.policies.remote import RemotePolicy

    for _ in range(240):
        if process.poll() is not None:
            raise UserError(f"the server ended with exit code {process.returncode}", "demo")
        try:
            return RemotePolicy(url)
        except UserError:
            time.sleep(0.25)
    raise UserError("the server did not answer within a minute", url)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
