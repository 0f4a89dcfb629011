"""One action through the server: it must be the local policy's."""

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
"""Seconds that the server has to end."""
LAST_WORDS = 12
"""Lines of what it said that are shown where something goes wrong."""


def compare(export: Path, robot: Path, log: Path) -> dict[str, Any]:
    """Serves the export from a process of its own and acts on the first sample of some robot data, through it and without.

    Args:
        log: gets all that the server says.

    Raises:
        UserError: the server does not start, or answers something else than the local policy; its last words are shown.
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
            raise UserError("the server answers something else than the local policy", "demo", "please report this")
    return {"said": f"the server answers what the local policy answers, contract {local.contract.hash[:12]}", "same": True}


@contextlib.contextmanager
def served(export: Path, log: Path) -> Iterator[Callable[[], RemotePolicy]]:
    """`vla serve` in a process of its own while the block runs; yields what connects to it, once it answers.

    A UserError of the block has the server's last words added.
    """
    port = _free_port()
    with log.open("wb") as file:
        command = [*VLA, "serve", str(export), "--port", str(port)]
        with child(command, ENDING, stdout=file, stderr=subprocess.STDOUT) as process:
            try:
                yield lambda: _connect(f"http://127.0.0.1:{port}", process)
            except UserError as error:
                said = log.read_text(errors="replace").strip().splitlines()[-LAST_WORDS:] or ["nothing"]
                words = "\n".join(f"  {line}" for line in said)
                raise UserError(f"{error.what}\nWhat the server said last ({log}):\n{words}", error.where, error.fix) from error


def _connect(url: str, process: subprocess.Popen) -> RemotePolicy:
    """Waits until the server answers."""
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
