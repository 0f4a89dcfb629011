"""The batches that a policy gets: requests of all clients and protocols together."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import functools
import time
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

from vla.errors import ContractMismatch
from vla.observation import ActionChunk, Observation
from vla.policies.base import Policy, check_answers
from vla.serving.fair import FairQueue
from vla.serving.metrics import Metrics
from vla.serving.options import ServerOptions
from vla.serving.pace import Pace
from vla.serving.refusal import PolicyFault, busy, too_late
from vla.serving.thread import PolicyThread, settable

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


@dataclasses.dataclass(eq=False, slots=True)
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

    def __init__(self, policy: Policy, options: ServerOptions, metrics: Metrics):
        self.policy, self.options, self.metrics = policy, options, metrics
        self._queue: FairQueue[Job] = FairQueue()
        self.pace = Pace()
        self._thread = PolicyThread()
        self._closing = self._acting = self._gathering_soon = False
        # Calls of the thread that are no batches.
        self._calls = 0
        # How long a call of the policy takes, about.
        self.seconds = 0.1
        # Requests of a batch that failed; each is tried again alone.
        self._alone: collections.deque[Job] = collections.deque()
        # When the batch that gathers must start, and the timer for it.
        self._until: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def drain(self) -> None:
        """Accepts no more requests and waits for those in progress."""
        self._closing = True
        while len(self._queue) or self._acting or self._calls:
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        self._closing = True
        await self._thread.close()

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
            raise busy(f"{len(self._queue)} requests are waiting", round(max(rounds * self.seconds, 0.05), 2))
        stream, loop = observation.id, asyncio.get_running_loop()
        job = Job(observation, owner, loop.create_future(), time.perf_counter())
        self._queue.push(owner, stream, job)
        self.pace.requested(stream, job.since)
        if not self.pace.anybody():
            self._gather()
        elif not self._acting and not self._gathering_soon:
            # After the other events of this turn of the loop, which may bring more requests.
            self._gathering_soon = True
            loop.call_soon(self._gather)
        timer = loop.call_later(deadline_s, _expire, job.future, deadline_s)
        try:
            return await job.future, job
        finally:
            timer.cancel()
            self._queue.remove(owner, stream, job)

    async def call(self, function: Callable[[*Arguments], Result], *values: *Arguments) -> Result:
        """Runs a function in the policy's thread, after the batch in progress."""
        self._calls += 1
        try:
            return await self._thread.call(function, *values)
        finally:
            self._calls -= 1

    def _gather(self) -> None:
        """Starts a batch, or waits for the requests that are expected."""
        self._gathering_soon = False
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if not len(self._queue):
            self._until = None
        if self._acting or not len(self._queue):
            return
        now = time.perf_counter()
        if self._until is None:
            self._until = now + min(self.options.wait_ms / 1e3, self.seconds)
        if len(self._queue) < self.options.batch and now < self._until and self.pace.expected(now, self._until):
            self._timer = asyncio.get_running_loop().call_later(self._until - now, self._gather)
            return
        self._until = None
        jobs = []
        while len(self._queue) and len(jobs) < self.options.batch:
            job = self._queue.pop()
            if not job.future.done():
                jobs.append(job)
        if jobs:
            self._start(jobs)

    def _start(self, jobs: list[Job]) -> None:
        self._acting = True
        done = functools.partial(self._finish, jobs, time.perf_counter())
        self._thread.submit(functools.partial(self._act, [job.observation for job in jobs]), done)

    def _finish(self, jobs: list[Job], start: float, chunks: list[ActionChunk] | None, error: BaseException | None) -> None:
        self._acting = False
        if chunks is not None:
            now = time.perf_counter()
            seconds = now - start
            self.seconds = 0.8 * self.seconds + 0.2 * seconds
            for job, chunk in zip(jobs, chunks, strict=True):
                job.queued_ms, job.policy_ms = 1e3 * (start - job.since), 1e3 * seconds
                if not job.future.done():
                    job.future.set_result(chunk)
                    self.pace.answered(job.observation.id, now)
            # After the answers, which the futures have made ready.
            asyncio.get_running_loop().call_soon(self._count, chunks, seconds)
        elif len(jobs) > 1:
            # One bad request must not cost the other clients their answers.
            self._alone.extend(jobs)
        elif error is not None and not jobs[0].future.done():
            jobs[0].future.set_exception(settable(error))
        while self._alone:
            job = self._alone.popleft()
            if not job.future.done():
                self._start([job])
                return
        self._gather()

    def _count(self, chunks: list[ActionChunk], seconds: float) -> None:
        self.metrics.batch(len(chunks), seconds, sum(bool(chunk.status) for chunk in chunks))

    def _act(self, observations: list[Observation]) -> list[ActionChunk]:
        chunks = self.policy.act(observations)
        try:
            chunks = check_answers(self.policy.contract, observations, chunks)
        except ContractMismatch as error:
            raise PolicyFault(error.what) from None
        return [ActionChunk(c.actions, c.terminate, {"batch": len(chunks), **c.info}, c.status) for c in chunks]


def _expire(future: asyncio.Future[ActionChunk], seconds: float) -> None:
    if not future.done():
        future.set_exception(too_late(seconds))
