"""How the threads of torch wait for one another: OpenMP's settings, which its runtime reads when torch is loaded."""

from __future__ import annotations

import os

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
"""A waiting thread sleeps; GNU's runtime (torch's on Linux) looks for work for ten microseconds before.

By default it looks for three milliseconds, in which no other process has its core: two commands on two cores then take many times
as long each, or one of them stands still (`benchmarks/contention.py`).
"""
OTHERS = ("KMP_BLOCKTIME", "KMP_LIBRARY")
"""Settings of the same kind of Intel's and LLVM's runtimes."""


def choose() -> None:
    """Sets how threads wait, for this process and those that it starts. A setting of the user's own wins."""
    if not settings():
        os.environ.update(WAITING)


def settings() -> dict[str, str]:
    """Returns the variables of the environment that say how threads wait."""
    return {name: os.environ[name] for name in (*WAITING, *OTHERS) if name in os.environ}
