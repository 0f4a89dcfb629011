"""The thread in which a policy runs. An executor would do, at twice the cost of a call that returns at once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar, TypeVarTuple

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


class PolicyThread:
    """Runs functions in one thread, in order, for an event loop. It starts with the first of them."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="policy", daemon=True)

    def submit(self, function: Callable[[], Result], done: Callable[[Result | None, BaseException | None], None]) -> None:
        """Runs a function in the thread; `done` gets its result, or what it raised, in the loop that runs now."""
        loop = asyncio.get_running_loop()

        def work() -> None:
            result = error = None
            try:
                result = function()
            except BaseException as raised:  # noqa: BLE001
                error = raised
            # A loop that has been closed meanwhile needs no answer.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(done, result, error)

        if not self._thread.ident:
            self._thread.start()
        self._work.put(work)

    async def call(self, function: Callable[[*Arguments], Result], *values: *Arguments) -> Result:
        """Returns what the function returns; raises what it raises."""
        future = asyncio.get_running_loop().create_future()

        def done(result: Result | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(settable(error))

        self.submit(lambda: function(*values), done)
        return await future

    async def close(self) -> None:
        """Ends the thread after the work in progress."""
        self._work.put(None)
        if self._thread.ident:
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            # It holds images, and the next one may be long in coming.
            del work


def settable(error: BaseException) -> Exception:
    """Returns an error as a future may hold it: SystemExit would end the server, and StopIteration cannot be set."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapped = RuntimeError(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
