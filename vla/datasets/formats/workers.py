"""Worker processes of a conversion or a check, which end together with it."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from typing import TypeVarTuple

Arguments = TypeVarTuple("Arguments")


def pool(
    workers: int, initialize: Callable[[*Arguments], None], *arguments: *Arguments
) -> concurrent.futures.ProcessPoolExecutor:
    """Returns a pool of fresh processes; each calls `initialize` with the arguments before its first task."""
    return concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _initialize, (initialize, *arguments)
    )


def _initialize(initialize: Callable[[*Arguments], None], *arguments: *Arguments) -> None:
    # An interrupt ends the process that hands out the work; a worker finishes what it is writing.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    initialize(*arguments)


def _end_with_parent() -> None:
    """Ends this process when its parent ends. Workers of a killed parent would otherwise write alongside its successor's."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
