"""Worker processes that each run one simulation; a worker that dies is replaced."""

from __future__ import annotations

import dataclasses
import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from vla.sim.episodes import Episode
from vla.sim.simulator_worker import SimulatorWorker

Argument = str | bool | np.ndarray | Episode
"""Part of a message to a worker: a method's name or one of its arguments."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """The reason why a worker failed."""

    reason: str


def _work(pipe: Connection, make: Callable[[], Any]) -> None:
    """Serves a method's name and its arguments, such as ("start", episode, look), until it receives None."""
    # Only the parent handles an interrupt; it ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        simulation = make()
        while (message := pipe.recv()) is not None:
            name, *arguments = message
            pipe.send(getattr(simulation, name)(*arguments))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:  # noqa: BLE001 - the parent must learn of any error
        pipe.send(Fault(f"{type(error).__name__}: {error}"))


class Worker:
    """One process and the pipe to it.

    Attributes:
        sent_at: time (monotonic) of the message that is not answered yet; None if there is none.
    """

    def __init__(self, make: Callable[[], Any]):
        context = multiprocessing.get_context("spawn")
        self.pipe, worker_end = context.Pipe()
        self.process = context.Process(target=_work, args=(worker_end, make), daemon=True)
        self.process.start()
        worker_end.close()
        self.sent_at: float | None = None

    def send(self, *message: Argument) -> None:
        """Sends a method's name and arguments; OSError if the process has ended."""
        self.sent_at = time.monotonic()
        self.pipe.send(message)

    def receive(self) -> Any:
        """Returns the answer, or a Fault if the process has ended."""
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(5)
            return Fault(f"the process ended with exit code {self.process.exitcode}")
        self.sent_at = None
        return answer

    def kill(self) -> None:
        # A stopped process ignores milder signals.
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Workers:
    """Worker processes; a context manager. Starting them takes some seconds, so reuse them.

    Args:
        count: number of processes; 0 is one per core.
        make: makes the simulation of each.

    Attributes:
        restarts: why workers were replaced, one line each.
    """

    def __init__(self, count: int = 0, make: Callable[[], Any] = SimulatorWorker):
        self.make = make
        self.restarts: list[str] = []
        self.all = [self._start() for _ in range(count or multiprocessing.cpu_count())]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def restart(self, worker: Worker, reason: str = "") -> None:
        """Replaces a worker by a new one; notes the reason if there is one."""
        worker.kill()
        self.all[self.all.index(worker)] = self._start()
        if reason:
            self.restarts.append(reason)

    def answers(self, among: list[Worker], deadline: float) -> list[tuple[Worker, Any]]:
        """Waits until some of these workers have answered; one that takes longer than `deadline` seconds gives a Fault."""
        sent_at = {w: w.sent_at for w in among if w.sent_at is not None}
        patience = max(0.0, min(sent_at.values()) + deadline - time.monotonic())
        answers = [(w, w.receive()) for w in self._answered(list(sent_at), patience)]
        now = time.monotonic()
        late = [w for w in sent_at if w not in [worker for worker, _ in answers] and now - sent_at[w] >= deadline]
        return answers + [(w, Fault(f"no answer within {deadline:g} s")) for w in late]

    def close(self) -> None:
        for worker in self.all:
            try:
                worker.pipe.send(None)
            except OSError:
                continue
        for worker in self.all:
            # Nobody waits for the answer of a worker that is still stepping.
            worker.process.join(5 if worker.sent_at is None else 0.1)
            worker.kill()

    def _start(self) -> Worker:
        return Worker(self.make)

    def _answered(self, pending: list[Worker], patience: float) -> list[Worker]:
        """Waits for the first workers to answer or die, at most `patience` seconds; returns those that have."""
        by_pipe = {w.pipe: w for w in pending}
        return [by_pipe[p] for p in wait(list(by_pipe), patience) if isinstance(p, Connection)]
