"""Processes that work for a conversion or a check, and end with it."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from typing import Any


def pool(workers: int, begin: Callable[..., None], *arguments: Any) -> concurrent.futures.ProcessPoolExecutor:
    """So many fresh processes, in each of which `begin` is called first."""
    return concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (begin, *arguments))


def _begin(begin: Callable[..., None], *arguments: Any) -> None:
    # What an interrupt ends is the process that hands out the work; what is being written becomes whole.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    begin(*arguments)


def _end_with_parent() -> None:
    """Ends this process when its parent is gone: killed, it leaves workers that would go on writing beside its successor."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
