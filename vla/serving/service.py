"""One policy as all protocols see it: a request in, an action chunk out, with everything that is counted, logged and limited."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vla.errors import UserError
from vla.observation import ActionChunk, Observation
from vla.policies.base import Policy
from vla.protocols.wire import plain
from vla.serving.batching import Batcher
from vla.serving.clients import Client
from vla.serving.metrics import Metrics
from vla.serving.observations import Images, observation, question, quick
from vla.serving.options import Options, ladder
from vla.serving.refusal import Refusal, busy, late, refused
from vla.serving.streams import Streams

log = logging.getLogger("vla.serving")
WORDS = ("go", "pick up the red cube", "put the small yellow cylinder to the left of the green cube and open the gripper")
"""Instructions of several lengths: a model's shapes depend on them."""


@dataclasses.dataclass
class Answer:
    """An answered request: the chunk, its info as plain values, and its times in milliseconds."""

    seen: Observation
    chunk: ActionChunk
    info: dict[str, Any]
    queued_ms: float
    policy_ms: float


def whole(answer: Answer) -> Answer:
    """The answer, for clients that look at nothing but the actions; Refusal where there are none."""
    if answer.chunk.status:
        raise Refusal(500, f"the policy's answer is {answer.chunk.status}", "policy", "ask again with the next observation")
    return answer


class Service:
    """A policy being served.

    Args:
        policy: what acts. It may have `ask(images, questions)` for questions.
        options: limits and batching.
        metrics: counts for all services of a server.
    """

    def __init__(self, policy: Policy, options: Options, metrics: Metrics):
        self.contract, self.digest = policy.contract, policy.contract.hash
        self.options, self.metrics = options, metrics
        self.batcher = Batcher(policy, options, metrics)
        self.streams = Streams(options.idle_s, options.streams)
        self.active = self._questions = 0
        self._turn = asyncio.Lock()
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def policy(self) -> Policy:
        return self.batcher.policy

    async def start(self) -> None:
        """Warms the policy up; when this returns, the first client waits no longer than any other."""
        await self.batcher.call(warm_up, self.policy, self.options.batch)
        self.batcher.start()
        self._sweeper = asyncio.create_task(self._sweep())

    async def drain(self) -> None:
        """Lets what is under way be answered, and sent."""
        await self.batcher.drain()
        while self.active:
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        if self._sweeper:
            self._sweeper.cancel()
        await self.batcher.close()

    async def replace(self, load: Callable[[], Policy]) -> None:
        """Loads the policy again and puts it in the old one's place between two batches; no request is lost.

        Raises:
            ContractMismatch: the new one holds another contract. Clients were told the old one, so the server must be restarted.
        """
        fresh = await asyncio.to_thread(load)
        self.contract.require(fresh.contract, "the policy being served", "the new one")
        await asyncio.to_thread(warm_up, fresh, self.options.batch)

        def swap() -> None:
            self.batcher.policy = fresh

        await self.batcher.call(swap)

    async def act(
        self, client: Client, stream: str, request: Any, done: dict[str, Any], deadline_s: float | None = None
    ) -> Answer:
        """Answers one request, inside `counted`, of a client that has been admitted.

        Args:
            client: who asks.
            stream: the client's name for what it drives.
            request: under our own field names (`vla.serving.observations`).
            done: what is logged of the request.
            deadline_s: the client gives up then; never more than the server's own.

        Raises:
            UserError: what `refused` makes a status of.
        """
        name = f"{client.name}/{stream}"
        side = self.options.side
        if quick(request):
            seen = observation(request, self.contract, side)
        else:
            seen = await asyncio.to_thread(observation, request, self.contract, side)
        seen = dataclasses.replace(seen, id=name)
        self.streams.touch(name)
        limit = min(deadline_s or self.options.deadline_s, self.options.deadline_s)
        chunk, job = await self.batcher.act(seen, client.name, limit)
        # It may have been pushed out while it waited.
        self.streams.touch(name)
        done |= {"queued_ms": job.queued_ms, "policy_ms": job.policy_ms, "batch": chunk.info["batch"]}
        return Answer(seen, chunk, plain(chunk.info), job.queued_ms, job.policy_ms)

    async def ask(self, request: Any) -> dict[str, Any]:
        """Answers a question on pictures, inside `counted`: {"text", "point"}. 501 where the policy cannot."""
        asked = getattr(self.policy, "ask", None)
        if asked is None:
            raise Refusal(501, "this policy answers no questions", "server", "serve an export of a vision-language model")
        images, words = await asyncio.to_thread(question, request, self.contract, self.options.side)
        if self._questions >= self.options.queue:
            raise busy(f"{self._questions} questions are waiting", 1.0)
        self._questions += 1
        try:
            # One at a time: robots wait for one question at most.
            async with asyncio.timeout(self.options.deadline_s), self._turn:
                (answer,) = await self.batcher.call(asked, [images], [words])
        except TimeoutError:
            raise late(self.options.deadline_s) from None
        finally:
            self._questions -= 1
        return {"text": answer.text, "point": answer.point}

    async def reset(self, client: Client, streams: list[str]) -> None:
        """Forgets what is kept for these streams of the client's."""
        await self._forget([f"{client.name}/{stream}" for stream in streams])

    def same_contract(self, asked: str | None) -> None:
        """409 for a client that holds another contract."""
        if asked is not None and asked != self.digest:
            what = f"the client holds contract {asked[:64]}, this server {self.digest}"
            raise Refusal(409, what, "X-Contract", "serve the export the client was made for, or read /contract again")

    @contextlib.contextmanager
    def counted(self, client: Client, protocol: str) -> Iterator[dict[str, Any]]:
        """Counts and logs a request, until it is sent; what goes wrong inside comes out as a Refusal.

        Yields:
            A dictionary for what else is to be logged; "protocol" in it replaces the argument.
        """
        began, status, failure = time.perf_counter(), 200, None
        done: dict[str, Any] = {"protocol": protocol}
        self.active += 1
        try:
            yield done
        except asyncio.CancelledError:
            status = 499
            raise
        except Exception as error:  # noqa: BLE001
            refusal = refused(error)
            status, failure = refusal.status, error
            raise refusal from (None if isinstance(error, UserError) else error)
        finally:
            self.active -= 1
            seconds = time.perf_counter() - began
            self.metrics.request(done["protocol"], status, seconds, done.get("queued_ms", 0.0))
            fields = {"request": client.request, "client": client.name, "status": status, "ms": round(1e3 * seconds, 2)}
            fields |= {name: round(value, 2) if isinstance(value, float) else value for name, value in done.items()}
            if isinstance(failure, UserError):
                fields["error"] = failure.what
            level = logging.INFO if status < 500 else logging.WARNING
            log.log(level, "request", extra={"fields": fields}, exc_info=failure if status == 500 else None)

    async def _forget(self, names: list[str]) -> None:
        if names:
            self.streams.drop(names)
            for name in names:
                self.batcher.pace.gone(name)
            await self.batcher.call(self.policy.reset, names)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(self.options.idle_s / 4, 10.0))
            await self._forget(self.streams.expired())


def warm_up(policy: Policy, batch: int) -> None:
    """Runs the policy once in every batch shape that it will be asked for, on grey pictures.

    Raises:
        PolicyFault, UserError: it cannot act at all.
    """
    body = policy.contract.embodiment()
    images: Images = {c.name: np.full((c.height, c.width, 3), 128, np.uint8) for c in body.cameras}
    state = np.array([(low + high) / 2 for low, high in zip(body.state.low, body.state.high, strict=True)])
    for rows in ladder(batch):
        for words in WORDS:
            names = [f"warm-up/{row}" for row in range(rows)]
            policy.act([Observation(name, images, state, words) for name in names])
            policy.reset(names)
