"""Closed-loop episodes: worker processes step and render, and one batched policy call serves all of them.

The course of an episode depends only on its description, the policy and the policy's batch size, not on the number of workers,
their order or their failures.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from vla.errors import ContractMismatch, UserError
from vla.observation import ActionChunk, Observation
from vla.policies.base import Policy, RecedingHorizon, check_answers
from vla.sim.episodes import Episode, Result
from vla.sim.record import Recorder
from vla.sim.registry import simulators
from vla.sim.workers import Argument, Fault, Worker, Workers

DEADLINE = 120.0
"""Seconds after which a worker that has not answered counts as hung; starting one takes about five."""
ATTEMPTS = 3
"""Number of workers' failures after which an episode is an error."""


def rollout(
    policy: Policy | None,
    episodes: Iterable[Episode],
    workers: Workers,
    progress: Callable[[Result], None] | None = None,
    execute: int = 0,
    deadline: float = DEADLINE,
    recorder: Recorder | None = None,
    teacher: Policy | None = None,
) -> list[Result]:
    """Runs episodes on the workers and returns their results in the episodes' order.

    A worker that dies, reports an error or does not answer in time is replaced, and its episode starts again; `workers.restarts`
    has the reasons.

    Args:
        policy: acts for all workers at once; None is the scripted expert, without images.
        progress: called with each result when it is there.
        execute: number of actions executed of each chunk; 0 is the contract's.
        deadline: seconds in which a worker must answer.
        recorder: records every step and result; images are then rendered at every step, even if the policy needs none.
        teacher: says at every step what it would do; the workers' simulations take it as further arguments of `step`.

    Raises:
        UserError: the policy answers a wrong shape or NaN (episode and step are named), the teacher writes a malformed answer, or
            an episode failed ATTEMPTS times.
    """
    return _Rollout(policy, list(episodes), workers, progress, execute, deadline, recorder, teacher).run()


class _Rollout:
    """The loop: start episodes on idle workers, collect answers, act for all waiting episodes."""

    def __init__(
        self,
        policy: Policy | None,
        episodes: list[Episode],
        workers: Workers,
        progress: Callable[[Result], None] | None,
        execute: int,
        deadline: float,
        recorder: Recorder | None,
        teacher: Policy | None,
    ):
        self.order = [episode.id for episode in episodes]
        if len(set(self.order)) < len(self.order):
            duplicate = next(i for i, n in collections.Counter(self.order).items() if n > 1)
            raise UserError(f"episode {duplicate} is given twice", "rollout", "run it again in another call")
        if recorder is not None:
            if policy is None:
                raise UserError("the expert acts without images, so there is nothing to record", "rollout", "use `vla collect`")
            recorder.expect(episodes)
        self.workers, self.progress, self.deadline, self.recorder = workers, progress, deadline, recorder
        self.acting = None if policy is None else RecedingHorizon(_Checked(policy, self._step), execute)
        self.teacher = None if teacher is None else RecedingHorizon(_Checked(teacher, self._step), 1)
        self.sees = getattr(policy, "sees", True)
        # A policy with a fixed batch size acts for that many at once, any other for all.
        self.rows = getattr(policy, "batch", 0) or len(workers.all)
        self.todo = collections.deque(episodes)
        self.running: dict[Worker, Episode] = {}
        self.task: dict[Worker, str] = {}
        self.waiting: dict[Worker, Observation] = {}
        self.steps: dict[str, int] = {}
        self.faults: dict[str, list[str]] = collections.defaultdict(list)
        self.malformed: collections.Counter[str] = collections.Counter()
        self.results: dict[str, Result] = {}

    def run(self) -> list[Result]:
        # An earlier rollout that ended with an error may have left workers within an episode.
        for worker in [w for w in self.workers.all if w.sent_at is not None]:
            self.workers.restart(worker)
        try:
            while self.todo or self.running:
                for worker in list(self.workers.all):
                    if self.todo and worker not in self.running:
                        self._begin(worker)
                pending = [w for w in self.running if w not in self.waiting]
                for worker, answer in self.workers.answers(pending, self.deadline) if pending else []:
                    self._take(worker, answer)
                if self.waiting and len(self.waiting) >= min(self.rows, len(self.running)):
                    self._act()
        finally:
            if self.running:
                self._forget([episode.id for episode in self.running.values()])
        return [self.results[i] for i in self.order]

    def _begin(self, worker: Worker) -> None:
        episode = self.running[worker] = self._next(worker)
        self.task[worker] = episode.task
        self.steps[episode.id] = self.malformed[episode.id] = 0
        if self.acting is None:
            self._send(worker, "expert", episode)
        else:
            self._forget([episode.id])
            if self.recorder is not None:
                self.recorder.begin(episode.id)
            self._send(worker, "start", episode, self.sees or self.recorder is not None)

    def _next(self, worker: Worker) -> Episode:
        """Takes the next episode. Where workers hold one task at a time it is, if possible, one of the worker's own task, or else
        of a task that no other worker has."""
        # A simulator may be known to the workers alone.
        if not any(simulator.one_task for simulator in simulators() if self.todo[0].task in simulator.tasks):
            return self.todo.popleft()
        taken = {self.task.get(other) for other in self.running if other is not worker}

        def cost(episode: Episode) -> int:
            return 0 if episode.task == self.task.get(worker) else 1 if episode.task not in taken else 2

        chosen = min(range(len(self.todo)), key=lambda index: (cost(self.todo[index]), index))
        episode = self.todo[chosen]
        del self.todo[chosen]
        return episode

    def _take(self, worker: Worker, answer: object) -> None:
        if isinstance(answer, Fault):
            self._retry(worker, answer.reason)
        elif isinstance(answer, Result):
            episode = self.running.pop(worker)
            counted = {"malformed": self.malformed[episode.id], "restarts": self.faults.get(episode.id, [])}
            answer = dataclasses.replace(answer, more={**answer.more, **counted})
            self.results[episode.id] = answer
            self._forget([episode.id])
            if self.recorder is not None:
                self.recorder.end(episode.id, answer)
            if self.progress:
                self.progress(answer)
        else:
            assert isinstance(answer, Observation)
            self.waiting[worker] = answer

    def _act(self) -> None:
        """Calls the policy once for all waiting episodes."""
        assert self.acting is not None
        turn, self.waiting = self.waiting, {}
        observations = list(turn.values())
        labels = self._labels(observations)
        for worker, observation, chunk in zip(turn, observations, self.acting.act(observations), strict=True):
            self.steps[observation.id] += 1
            self.malformed[observation.id] += bool(chunk.status)
            if self.recorder is not None:
                self.recorder.step(observation, chunk)
            look = self.recorder is not None or (self.sees and self.acting.needs(observation.id))
            self._send(worker, "step", chunk.actions[0], bool(chunk.terminate[0]), look, *labels.get(observation.id, ()))

    def _labels(self, observations: list[Observation]) -> dict[str, tuple[np.ndarray, bool]]:
        """Id of an observation -> what the teacher would do, and whether it would declare the task done; {} without a teacher."""
        if self.teacher is None:
            return {}
        labels = {}
        for observation, chunk in zip(observations, self.teacher.act(observations), strict=True):
            if chunk.status:
                raise UserError(f"the expert's answer is {chunk.status}", self._step(observation.id), "take another expert")
            labels[observation.id] = chunk.actions[0], bool(chunk.terminate[0])
        return labels

    def _forget(self, streams: list[str]) -> None:
        for acting in (self.acting, self.teacher):
            if acting is not None:
                acting.reset(streams)

    def _send(self, worker: Worker, *message: Argument) -> None:
        try:
            worker.send(*message)
        except OSError:
            # The worker has died; `answers` reports it.
            return

    def _retry(self, worker: Worker, reason: str) -> None:
        """Replaces a failed worker; its episode is the next to start."""
        episode = self.running.pop(worker)
        self.workers.restart(worker, f"{episode}: {reason}")
        reasons = self.faults[episode.id]
        reasons.append(reason)
        if len(reasons) >= ATTEMPTS:
            raise UserError(
                f"a worker failed {len(reasons)} times: {'; '.join(dict.fromkeys(reasons))}",
                f"episode {episode}",
                "`vla doctor` checks rendering",
            )
        self.todo.appendleft(episode)

    def _step(self, stream: str) -> str:
        return f"episode {stream}, step {self.steps[stream]}"


@dataclasses.dataclass
class _Checked:
    """Wraps a policy and checks its answers; `where` names the episode and the step of an error."""

    policy: Policy
    where: Callable[[str], str]

    def __post_init__(self):
        self.contract = self.policy.contract

    def reset(self, ids: Sequence[str]) -> None:
        self.policy.reset(ids)

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        chunks = self.policy.act(observations)
        try:
            return check_answers(self.contract, observations, chunks)
        except ContractMismatch as error:
            fix = "the policy is at fault; finished episodes are kept"
            raise ContractMismatch(error.what, self.where(error.where), fix) from None
