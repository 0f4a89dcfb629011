"""How the threads of torch wait for one another: OpenMP's settings, which its runtime reads when torch is loaded."""

from __future__ import annotations

import os

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2500"}
"""A waiting thread looks for work some microseconds, then sleeps.

By default GNU's runtime (torch's on Linux) looks 300,000 times, for three milliseconds in which no other process has its core:
two commands on two cores then take many times as long each, or one of them stands still. A thread that sleeps at once makes a
training that is alone 20 % slower. With 2,500 this is 3 %, and two commands at once take at most 2.2 times as long each; with
5,000 they take 2.8 times as long (`benchmarks/contention.py`). The policy is for other runtimes than GNU's.
"""
OTHERS = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""Further settings of the same: of GNU's runtime, and of Intel's and LLVM's."""


def choose() -> None:
    """Sets how threads wait, for this process and those that it starts. A setting of the user's own wins."""
    if not settings():
        os.environ.update(WAITING)


def settings() -> dict[str, str]:
    """Returns the variables of the environment that say how threads wait."""
    return {name: os.environ[name] for name in (*WAITING, *OTHERS) if name in os.environ}
