"""Runs `vla …` as a user would, without the seconds that a new Python needs: each command is forked from a process that has
imported the package and done nothing else."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import types
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

PRELOADED = ["vla.cli", "vla.commands.training", "vla.training.cli", "vla.commands.data", "vla.datasets.formats.convert"]
PRELOADED += ["vla.commands.serve", "vla.serving.server", "vla.policies.load", "vla.training.export", "h5py", "av"]
PRELOADED += ["pyarrow.parquet", "vla.datasets.formats.lerobot_source", "vla.commands.rollout", "vla.commands.collect"]
CONTEXT = multiprocessing.get_context("forkserver")


def prepare() -> None:
    """Sets the commands' environment, and names what the server of forks imports; it starts with the first command."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    # Nothing is downloaded.
    os.environ["HF_HUB_OFFLINE"] = "1"
    # The server imports what this process would, wherever it was started.
    os.environ |= {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    CONTEXT.set_forkserver_preload(["outside.command", *PRELOADED])


def start(
    argv: list[str], folder: Path, output: Path, file_limit: int = 0, environment: Mapping[str, str] | None = None
) -> BaseProcess:
    """Starts `vla ARGV` in a folder; its output goes to a file."""
    process = CONTEXT.Process(target=_vla, args=(argv, str(folder), str(output), file_limit, dict(environment or {})))
    process.start()
    return process


def run(
    argv: list[str], folder: Path, limit: float, file_limit: int = 0, environment: Mapping[str, str] | None = None
) -> tuple[int | None, str]:
    """Runs `vla ARGV` in a folder; returns its exit code, None if it was still running at the limit, and its output."""
    output = folder.with_name(f"{folder.name}.out")
    process = start(argv, folder, output, file_limit, environment)
    process.join(limit)
    code = process.exitcode
    if code is None:
        end(process)
    return code, output.read_text(errors="replace") if output.exists() else ""


def end(process: BaseProcess) -> None:
    """Ends a command and what it has started."""
    if process.pid is None or process.exitcode is not None:
        return
    for number, seconds in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        process.join(seconds)
        if process.exitcode is not None:
            break


def _vla(argv: list[str], folder: str, output: str, file_limit: int, environment: dict[str, str]) -> None:
    """The forked process: becomes the console script `vla`."""
    os.setsid()
    os.chdir(folder)
    for variable in ("PYTHONSAFEPATH", "PYTHONPATH"):
        os.environ.pop(variable, None)
    os.environ |= {"TMPDIR": folder, "HOME": folder, **environment}
    opened = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(opened, stream)
    # What it spawns must not import the benchmark.
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv = ["vla", *argv]
    if file_limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    from vla.cli import entry

    entry()
