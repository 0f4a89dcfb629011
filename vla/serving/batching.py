"""The thread in which a policy runs, and the batches it gets: requests of all clients and protocols together."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

from vla.errors import ContractMismatch
from vla.observation import ActionChunk, Observation
from vla.policies.base import Policy, check_answers
from vla.serving.fair import FairQueue
from vla.serving.metrics import Metrics
from vla.serving.options import Options
from vla.serving.pace import Pace
from vla.serving.refusal import PolicyFault, busy, too_late

log = logging.getLogger("vla.serving")
Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


@dataclasses.dataclass(eq=False)
class Job:
    """A request in the queue, since `since` (seconds). `queued_ms` and `policy_ms` are filled in when it is answered."""

    observation: Observation
    owner: str
    future: asyncio.Future[ActionChunk]
    since: float
    queued_ms: float = 0.0
    policy_ms: float = 0.0


class Batcher:
    """Calls a blocking policy from an event loop, always in the same thread, with all observations that have gathered.

    A batch starts when it is full, when no other request is expected soon, or when its first request has waited for `wait_ms` or
    for as long as a call of the policy takes, whichever is shorter: after that, a second call would serve the others no later.
    A lone client therefore never waits. Other work for the policy's thread runs between two batches.
    """

    def __init__(self, policy: Policy, options: Options, metrics: Metrics):
        self.policy, self.options, self.metrics = policy, options, metrics
        self._queue: FairQueue[Job] = FairQueue()
        self.pace = Pace()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._running = 0
        self._batch_seconds = 0.1

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def drain(self) -> None:
        """Accepts no more requests and waits for those in progress."""
        self._closing = True
        while len(self._queue) or self._running:
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        self._closing = True
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    async def act(self, observation: Observation, owner: str, deadline_s: float) -> tuple[ActionChunk, Job]:
        """Returns the chunk for this observation, and its job with the timings. Cancelling takes the request out of the queue.

        Raises:
            Refusal: 503 if the queue is full or the server is shutting down, 504 after `deadline_s` seconds.
            PolicyFault: the answer does not fit the contract. What the policy itself raises is raised too.
        """
        if self._closing:
            raise busy("the server is shutting down", 1.0)
        if len(self._queue) >= self.options.queue:
            rounds = 1 + len(self._queue) // self.options.batch
            raise busy(f"{len(self._queue)} requests are waiting", round(max(rounds * self._batch_seconds, 0.05), 2))
        stream = observation.id
        job = Job(observation, owner, asyncio.get_running_loop().create_future(), time.perf_counter())
        self._queue.push(owner, stream, job)
        self.pace.requested(stream, job.since)
        self._arrived.set()
        try:
            return await asyncio.wait_for(job.future, deadline_s), job
        except TimeoutError:
            raise too_late(deadline_s) from None
        finally:
            self._queue.remove(owner, stream, job)

    async def call(self, function: Callable[[*Arguments], Result], *values: *Arguments) -> Result:
        """Runs a function in the policy's thread, after the batch in progress."""
        self._running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *values)
        finally:
            self._running -= 1

    async def _run(self) -> None:
        while True:
            await self._gather_requests()
            jobs = []
            while len(self._queue) and len(jobs) < self.options.batch:
                job = self._queue.pop()
                if not job.future.done():
                    jobs.append(job)
            if jobs:
                await self._answer(jobs)

    async def _gather_requests(self) -> None:
        """Waits until a batch should start."""
        while not len(self._queue):
            self._arrived.clear()
            await self._arrived.wait()
        until = time.perf_counter() + min(self.options.wait_ms / 1e3, self._batch_seconds)
        while len(self._queue) < self.options.batch and (now := time.perf_counter()) < until and self.pace.expected(now, until):
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), until - now)

    async def _answer(self, jobs: list[Job]) -> None:
        start = time.perf_counter()
        try:
            chunks = await self.call(self._act, [job.observation for job in jobs])
        except Exception as error:  # noqa: BLE001
            if len(jobs) > 1:
                # One bad request must not cost the other clients their answers.
                for job in jobs:
                    if not job.future.done():
                        await self._answer([job])
            elif not jobs[0].future.done():
                jobs[0].future.set_exception(error)
            return
        seconds = time.perf_counter() - start
        self._batch_seconds = 0.8 * self._batch_seconds + 0.2 * seconds
        self.metrics.batch(len(jobs), seconds, sum(bool(chunk.status) for chunk in chunks))
        for job, chunk in zip(jobs, chunks, strict=True):
            job.queued_ms, job.policy_ms = 1e3 * (start - job.since), 1e3 * seconds
            if not job.future.done():
                job.future.set_result(chunk)
                self.pace.answered(job.observation.id, time.perf_counter())

    def _act(self, observations: list[Observation]) -> list[ActionChunk]:
        chunks = self.policy.act(observations)
        try:
            chunks = check_answers(self.policy.contract, observations, chunks)
        except ContractMismatch as error:
            raise PolicyFault(error.what) from None
        return [ActionChunk(c.actions, c.terminate, {"batch": len(chunks), **c.info}, c.status) for c in chunks]
