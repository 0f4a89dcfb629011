"""Simulation workers as actors on a Ray cluster: `--engine ray`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, cast

from vla.errors import UserError
from vla.sim.simulator_worker import SimulatorWorker
from vla.sim.workers import Argument, Fault, Worker, Workers

try:
    import ray
    import ray.exceptions
except ImportError:
    raise UserError("Ray is not installed", "--engine ray", "pip install 'vla[ray]'") from None

Unreachable = (ray.exceptions.RayError, ConnectionError)


def connect() -> int:
    """Joins the cluster at RAY_ADDRESS or on this machine, or else starts one; returns its number of CPUs.

    Raises:
        UserError: there is no cluster at that address.
    """
    if not ray.is_initialized():
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError) as error:
            raise UserError(f"no Ray cluster can be joined: {error}", "--engine ray", "`ray status` shows the cluster") from None
    return int(ray.cluster_resources().get("CPU", 0))


class _RemoteSimulation:
    """The actor: one simulation, whose methods are called by name."""

    def __init__(self, make: Callable[[], Any]):
        self._simulation = make()

    def call(self, name: str, *arguments: Argument) -> Any:
        try:
            return getattr(self._simulation, name)(*arguments)
        except Exception as error:  # noqa: BLE001 - the parent must learn of any error
            return Fault(f"{type(error).__name__}: {error}")


class RayWorker(Worker):
    """An actor with a CPU of its own, and the answer that is pending."""

    def __init__(self, make: Callable[[], Any]):
        self._actor = ray.remote(_RemoteSimulation).options(num_cpus=1, max_restarts=0).remote(make)
        self.answer: ray.ObjectRef | None = None
        self.sent_at: float | None = None

    def send(self, *message: Argument) -> None:
        self.sent_at = time.monotonic()
        self.answer = self._actor.call.remote(*message)

    def receive(self) -> Any:
        try:
            answer = ray.get(cast("ray.ObjectRef", self.answer))
        except Unreachable as error:
            # Ray quotes a whole traceback, whose last line is the error.
            return Fault(f"{type(error).__name__}: {str(error).strip().splitlines()[-1].strip()}")
        self.sent_at = None
        return answer

    def kill(self) -> None:
        ray.kill(self._actor)  # pyright: ignore[reportArgumentType] (it calls its own handles proxies)


class RayWorkers(Workers):
    """Workers on the Ray cluster; see `Workers`.

    Args:
        count: number of actors, one CPU each; 0 is one per CPU of the cluster.

    Raises:
        UserError: the cluster has fewer CPUs, or there is no cluster at RAY_ADDRESS.
    """

    def __init__(self, count: int = 0, make: Callable[[], Any] = SimulatorWorker):
        if count > (cpus := connect()):
            raise UserError(f"the cluster has {cpus} CPUs for {count} workers", "--workers", "ask for fewer, or add machines")
        super().__init__(count or cpus, make)

    def close(self) -> None:
        for worker in self.all:
            worker.kill()

    def _start(self) -> Worker:
        return RayWorker(self.make)

    def _answered(self, pending: list[Worker], patience: float) -> list[Worker]:
        by_answer = {w.answer: w for w in pending if isinstance(w, RayWorker)}
        ray.wait(list(by_answer), num_returns=1, timeout=patience)
        ready, _ = ray.wait(list(by_answer), num_returns=len(by_answer), timeout=0)
        return [by_answer[answer] for answer in ready]
