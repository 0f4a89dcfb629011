"""Where simulation workers run: processes on this machine, or actors on a Ray cluster."""

from __future__ import annotations

import multiprocessing
from typing import Literal

from vla.sim.workers import Workers

Engine = Literal["local", "ray"]


def worker_count(engine: Engine, count: int, episodes: int) -> int:
    """Returns the number of workers for some episodes; a `count` of 0 is one per core of this machine or the Ray cluster."""
    if engine == "ray":
        from vla.sim.cluster import connect

        count = count or connect()
    return min(count or multiprocessing.cpu_count(), max(episodes, 1))


def open_workers(engine: Engine, count: int) -> Workers:
    """Starts worker processes here, or actors on the Ray cluster.

    Raises:
        UserError: Ray is not installed, or the cluster has fewer CPUs.
    """
    if engine == "ray":
        from vla.sim.cluster import RayWorkers

        return RayWorkers(count)
    return Workers(count)
