"""Worker processes that each hold one simulation, and that may die: what is lost is started again."""

from __future__ import annotations

import dataclasses
import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

from vla.sim.simulator_worker import SimulatorWorker


@dataclasses.dataclass(frozen=True)
class Fault:
    """What went wrong in a worker, as it sends it before it ends."""

    reason: str


def _work(pipe: Connection, make: Callable[[], Any]) -> None:
    """Serves ("start", episode, look) | ("step", action, terminate, look) | ("expert", episode) until None comes."""
    # An interrupt is for the parent, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        simulation = make()
        while (message := pipe.recv()) is not None:
            name, *arguments = message
            pipe.send(getattr(simulation, name)(*arguments))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
        pipe.send(Fault(f"{type(error).__name__}: {error}"))


class Worker:
    """One process and the pipe to it.

    Attributes:
        asked: time (monotonic) of the message that is not answered yet; None while there is none.
    """

    def __init__(self, make: Callable[[], Any]):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, make), daemon=True)
        self.process.start()
        theirs.close()
        self.asked: float | None = None

    def send(self, *message: Any) -> None:
        """Raises OSError if the process is gone."""
        self.asked = time.monotonic()
        self.pipe.send(message)

    def receive(self) -> Any:
        """The answer, or a Fault."""
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(5)
            return Fault(f"the process ended with exit code {self.process.exitcode}")
        self.asked = None
        return answer

    def kill(self) -> None:
        # A stopped process does not hear a polite signal.
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Workers:
    """Worker processes; a context manager. Starting them takes some seconds, so keep them.

    Args:
        count: processes; 0 is one per core.
        make: what each of them holds.

    Attributes:
        restarts: why workers were started again, one line each.
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
        """Puts a new process in the place of one; a reason is noted."""
        worker.kill()
        self.all[self.all.index(worker)] = self._start()
        if reason:
            self.restarts.append(reason)

    def answers(self, among: list[Worker], deadline: float) -> list[tuple[Worker, Any]]:
        """Waits until some of these workers have answered, or are overdue by `deadline` seconds, which is a Fault."""
        asked = {w: w.asked for w in among if w.asked is not None}
        patience = max(0.0, min(asked.values()) + deadline - time.monotonic())
        answers = [(w, w.receive()) for w in self._answered(list(asked), patience)]
        now = time.monotonic()
        late = [w for w in asked if w not in [worker for worker, _ in answers] and now - asked[w] >= deadline]
        return answers + [(w, Fault(f"no answer within {deadline:g} s")) for w in late]

    def close(self) -> None:
        for worker in self.all:
            try:
                worker.pipe.send(None)
            except OSError:
                continue
        for worker in self.all:
            # One that still steps has nobody to tell of it.
            worker.process.join(5 if worker.asked is None else 0.1)
            worker.kill()

    def _start(self) -> Worker:
        return Worker(self.make)

    def _answered(self, asked: list[Worker], patience: float) -> list[Worker]:
        """Those that have answered, or have died, as soon as there is one; after so many seconds none."""
        by_pipe = {w.pipe: w for w in asked}
        return [by_pipe[p] for p in wait(list(by_pipe), patience) if isinstance(p, Connection)]
