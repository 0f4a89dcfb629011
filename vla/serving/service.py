"""A policy as all protocols use it: answers requests with action chunks, within limits, and counts and logs them."""

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
from vla.protocols.wire import Value, plain
from vla.serving.batching import Batcher
from vla.serving.clients import Client
from vla.serving.metrics import Metrics
from vla.serving.observations import Images, is_quick_to_read, read_observation, read_question
from vla.serving.options import ServerOptions, ladder
from vla.serving.refusal import Refusal, as_refusal, busy, too_late
from vla.serving.streams import Streams

log = logging.getLogger("vla.serving")
INSTRUCTIONS = ("go", "pick up the red cube", "put the small yellow cylinder to the left of the green cube and open the gripper")
"""Instructions for the warm-up, of several lengths because the shapes of a model's inputs depend on them."""


@dataclasses.dataclass
class Answer:
    """The answer to a request: observation, chunk, the chunk's info as plain values, and times in milliseconds."""

    observation: Observation
    chunk: ActionChunk
    info: dict[str, Any]
    queued_ms: float
    policy_ms: float

    def actions(self) -> np.ndarray:
        """Returns the actions [T, A]. Raises Refusal 500 if the policy's answer was malformed."""
        if self.chunk.status:
            raise Refusal(500, f"the policy's answer is {self.chunk.status}", "policy", "try again with the next observation")
        return self.chunk.actions


@dataclasses.dataclass
class RequestLog:
    """What is logged of a request besides client, status and duration.

    Attributes:
        protocol: http, ask, openpi or openvla.
        message: number of the message on its connection.
        queued_ms: time in the queue.
        policy_ms: time of the policy's call.
        batch: rows of the policy's call.
    """

    protocol: str
    message: int | None = None
    queued_ms: float | None = None
    policy_ms: float | None = None
    batch: int | None = None

    def fields(self) -> dict[str, str | int | float]:
        """Returns what is known, floats with two digits."""
        known = {name: value for name, value in vars(self).items() if value is not None}
        return {name: round(value, 2) if isinstance(value, float) else value for name, value in known.items()}


class Service:
    """Serves one policy.

    Args:
        policy: the policy. Its `ask(images, questions)`, if it has one, answers questions.
        options: limits and batching.
        metrics: the counters of the whole server.
    """

    def __init__(self, policy: Policy, options: ServerOptions, metrics: Metrics):
        self.contract, self.digest = policy.contract, policy.contract.hash
        self.options, self.metrics = options, metrics
        self.batcher = Batcher(policy, options, metrics)
        self.streams = Streams(options.idle_s, options.streams)
        # Streams whose state has been far outside its range, which the log says once.
        self._warned: set[str] = set()
        self.active = self._questions = 0
        self._question_lock = asyncio.Lock()
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def policy(self) -> Policy:
        return self.batcher.policy

    async def start(self) -> None:
        """Warms the policy up, so that the first client waits no longer than any other."""
        await self.batcher.call(warm_up, self.policy, self.options.batch)
        self._sweeper = asyncio.create_task(self._sweep())

    async def drain(self) -> None:
        """Waits until all requests in progress are answered and sent."""
        await self.batcher.drain()
        while self.active:
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        if self._sweeper:
            self._sweeper.cancel()
        await self.batcher.close()

    async def replace(self, load: Callable[[], Policy]) -> None:
        """Loads the policy again and replaces the old one between two batches. No request is lost.

        Raises:
            ContractMismatch: the new policy has another contract. Clients rely on the old one, so restart the server.
        """
        new_policy = await asyncio.to_thread(load)
        self.contract.require(new_policy.contract, "the policy being served", "the new one")
        await asyncio.to_thread(warm_up, new_policy, self.options.batch)

        def swap() -> None:
            self.batcher.policy = new_policy

        await self.batcher.call(swap)

    async def act(
        self, client: Client, stream: str, request: Value, entry: RequestLog, deadline_s: float | None = None
    ) -> Answer:
        """Answers an observation with an action chunk. Call it inside `track`, for a client that has been admitted.

        Args:
            client: the client.
            stream: the client's name for the stream.
            request: the observation under our own field names (`vla.serving.observations`).
            entry: the log entry to fill in.
            deadline_s: the client's deadline; the server's own applies too.

        Raises:
            UserError: the request is refused; `as_refusal` gives the status.
        """
        name = f"{client.name}/{stream}"
        reading = request, self.contract, self.options.side, getattr(self.policy, "any_size", False)
        if is_quick_to_read(request):
            observation = read_observation(*reading)
        else:
            observation = await asyncio.to_thread(read_observation, *reading)
        observation.id = name
        far = self._far_outside(observation)
        self.streams.touch(name)
        deadline_s = min(deadline_s or self.options.deadline_s, self.options.deadline_s)
        chunk, job = await self.batcher.act(observation, client.name, deadline_s)
        # The stream may have expired while the request waited.
        self.streams.touch(name)
        entry.queued_ms, entry.policy_ms, entry.batch = job.queued_ms, job.policy_ms, chunk.info["batch"]
        info = plain(chunk.info) | ({"warnings": far} if far else {})
        return Answer(observation, chunk, info, job.queued_ms, job.policy_ms)

    def _far_outside(self, observation: Observation) -> list[str]:
        """Describes what of the state is far outside its range. Raises Refusal 422 for it if the server is strict."""
        far = self.contract.embodiment(observation.embodiment).state.far_outside(observation.state)
        if far and self.options.strict:
            raise Refusal(422, "; ".join(far), "state", "check units, order and zero of the state: /contract has its names")
        if far and observation.id not in self._warned:
            self._warned.add(observation.id)
            log.warning("state far outside its range", extra={"fields": {"stream": observation.id, "state": far}})
        return far

    @property
    def answers_questions(self) -> bool | None:
        """Whether the policy has learned to answer questions; None if it can write text, but does not say."""
        can = getattr(self.policy, "ask", None) is not None
        return getattr(self.policy, "trained_on_questions", None) if can else False

    async def ask(self, request: Value) -> dict[str, Any]:
        """Answers a question on images: {"text", "point", "note"}. Call it inside `track`.

        Raises:
            Refusal: 501 if the policy cannot write text, 409 if it was trained on no questions.
        """
        ask = getattr(self.policy, "ask", None)
        if ask is None:
            raise Refusal(501, "this policy answers no questions", "server", "serve an export of a vision-language model")
        if self.answers_questions is False:
            fix = "train with a source of questions beside the robot's"
            raise Refusal(409, "this policy was trained on no questions, so its answers would mean nothing", "server", fix)
        images, question = await asyncio.to_thread(read_question, request, self.contract, self.options.side)
        if self._questions >= self.options.queue:
            raise busy(f"{self._questions} questions are waiting", 1.0)
        self._questions += 1
        try:
            # One question at a time, so that a robot waits for at most one.
            async with asyncio.timeout(self.options.deadline_s), self._question_lock:
                (answer,) = await self.batcher.call(ask, [images], [question])
        except TimeoutError:
            raise too_late(self.options.deadline_s) from None
        finally:
            self._questions -= 1
        note = "" if self.answers_questions else "this export does not say whether it was trained on questions"
        return {"text": answer.text, "point": answer.point, "note": note}

    async def reset(self, client: Client, streams: list[str]) -> None:
        """Drops the state of these streams of the client."""
        await self._forget([f"{client.name}/{stream}" for stream in streams])

    def require_contract(self, digest: str | None) -> None:
        """Raises Refusal 409 if the client was made for another contract."""
        if digest is not None and digest != self.digest:
            what = f"the client was made for contract {digest[:64]}, this server has {self.digest}"
            raise Refusal(
                409, what, "X-Contract", "serve the export the client was made for, or let the client read /contract again"
            )

    @contextlib.contextmanager
    def track(self, client: Client, protocol: str) -> Iterator[RequestLog]:
        """Counts and logs the request that is handled inside; any error leaves it as a Refusal.

        Yields:
            The log entry, to be filled in.
        """
        start, status, failure = time.perf_counter(), 200, None
        entry = RequestLog(protocol)
        self.active += 1
        try:
            yield entry
        except asyncio.CancelledError:
            status = 499
            raise
        except Exception as error:  # noqa: BLE001
            refusal = as_refusal(error)
            status, failure = refusal.status, error
            raise refusal from (None if isinstance(error, UserError) else error)
        finally:
            self.active -= 1
            seconds = time.perf_counter() - start
            self.metrics.request(entry.protocol, status, seconds, entry.queued_ms or 0.0)
            fields = {"request": client.request, "client": client.name, "status": status, "ms": round(1e3 * seconds, 2)}
            fields |= entry.fields()
            if isinstance(failure, UserError):
                fields["error"] = failure.what
            level = logging.INFO if status < 500 else logging.WARNING
            log.log(level, "request", extra={"fields": fields}, exc_info=failure if status == 500 else None)

    async def _forget(self, names: list[str]) -> None:
        if names:
            self.streams.drop(names)
            self._warned.difference_update(names)
            for name in names:
                self.batcher.pace.forget(name)
            await self.batcher.call(self.policy.reset, names)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(self.options.idle_s / 4, 10.0))
            await self._forget(self.streams.expired())


def warm_up(policy: Policy, batch: int) -> None:
    """Runs the policy on grey images once in every batch size that it will be called with. Raises what the policy raises."""
    embodiment = policy.contract.embodiment()
    images: Images = {c.name: np.full((c.height, c.width, 3), 128, np.uint8) for c in embodiment.cameras}
    state = np.array([(low + high) / 2 for low, high in zip(embodiment.state.low, embodiment.state.high, strict=True)])
    for rows in ladder(batch):
        for instruction in INSTRUCTIONS:
            streams = [f"warm-up/{row}" for row in range(rows)]
            policy.act([Observation(stream, images, state, instruction) for stream in streams])
            policy.reset(streams)
