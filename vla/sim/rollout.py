"""Closed-loop episodes: worker processes step and render, one batched policy call serves them all.

An episode is a function of (task, seed, instruction kind, policy): scene and start are drawn from the seed alone.
"""

from __future__ import annotations

import collections
import dataclasses
import multiprocessing
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from vla.errors import UserError
from vla.policies.base import Observation, Policy, RecedingHorizon
from vla.sim.embodiment import EMBODIMENT_NAME
from vla.sim.episode import EVALUATION, Episode, set_up
from vla.sim.experts import expert_action
from vla.sim.tasks import find_task
from vla.sim.tasks.outcome import Outcome

VIDEO_SIZE = 256


@dataclasses.dataclass
class Result:
    """How an episode went.

    Attributes:
        target, first: names of the object that should be acted on and of the one that was first ("" is none).
        failure: "" for success, else its class.
        frames: recorded pictures [side, 2 * side, 3], front and wrist.
    """

    task: str
    seed: int
    kind: str
    instruction: str
    objects: list[str]
    target: str
    first: str
    failure: str
    steps: int
    executed: bool
    seconds: float
    frames: list[np.ndarray] = dataclasses.field(default_factory=list, repr=False)

    @property
    def success(self) -> bool:
        return self.failure == ""

    def to_dict(self) -> dict[str, Any]:
        record = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "frames"}
        return {**record, "success": self.success}


class Simulation:
    """One environment slot: runs one episode at a time, step by step."""

    def __init__(self):
        # Only worker processes load the simulator: a software renderer brings a compiler that torch's does not get on with.
        from vla.sim.tabletop import Tabletop

        self.table = Tabletop()

    def start(self, episode: Episode) -> Observation:
        self.episode, self.began = episode, time.perf_counter()
        scene, goal, self.instruction = set_up(episode)
        self.table.reset(scene, np.random.default_rng((EVALUATION, episode.seed, 2)))
        self.outcome = Outcome(find_task(episode.task), goal, episode.horizon)
        self.frames: list[np.ndarray] = []
        self._record()
        return self.observe(True)

    def observe(self, look: bool) -> Observation:
        images = self.table.images() if look else {}
        return Observation(str(self.episode.seed), images, self.table.state(), self.instruction, EMBODIMENT_NAME)

    def step(self, action: np.ndarray, terminate: bool, look: bool) -> Observation | Result:
        """Carries out one action; the next observation (with pictures if the policy will look), or how the episode ended."""
        self.table.step(action)
        self.outcome.update(self.table, terminate)
        self._record()
        return self.result() if self.outcome.over else self.observe(look)

    def expert(self) -> np.ndarray:
        assert self.outcome.goal is not None
        return expert_action(self.table, self.outcome.goal)

    def result(self) -> Result:
        names = [o.name for o in self.table.scene]
        outcome = self.outcome
        return Result(
            task=self.episode.task,
            seed=self.episode.seed,
            kind=self.episode.kind,
            instruction=self.instruction,
            objects=names,
            target="" if outcome.goal is None else names[outcome.goal.target],
            first="" if outcome.first is None else names[outcome.first],
            failure=outcome.failure or "",
            steps=outcome.steps,
            executed=outcome.executed,
            seconds=time.perf_counter() - self.began,
            frames=self.frames,
        )

    def _record(self) -> None:
        if self.episode.video:
            pictures = [self.table.render(camera, VIDEO_SIZE) for camera in self.table.cameras]
            self.frames.append(np.concatenate(pictures, 1))


def _worker(pipe: Connection) -> None:
    """Serves ("start", episode) | ("step", action, terminate, look) | ("expert", episode) until None comes."""
    simulation = Simulation()
    while (message := pipe.recv()) is not None:
        match message:
            case ("start", episode):
                pipe.send(simulation.start(episode))
            case ("step", action, terminate, look):
                pipe.send(simulation.step(action, terminate, look))
            case ("expert", episode):
                simulation.start(dataclasses.replace(episode, video=False))
                while not simulation.outcome.over:
                    simulation.table.step(simulation.expert())
                    simulation.outcome.update(simulation.table)
                pipe.send(simulation.result())


class Workers:
    """Worker processes that each hold one simulation; a context manager. Starting them takes some seconds, so keep them.

    Raises:
        UserError: a worker died.
    """

    def __init__(self, count: int = 0):
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for _ in range(count or multiprocessing.cpu_count()):
            ours, theirs = context.Pipe()
            process = context.Process(target=_worker, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for pipe in self.pipes:
            try:
                pipe.send(None)
            except (BrokenPipeError, OSError):
                continue
        for process in self.processes:
            process.join(5)
            if process.is_alive():
                process.kill()

    def receive(self, pipe: Connection) -> Any:
        try:
            return pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            code = self.processes[self.pipes.index(pipe)].exitcode
            raise UserError(f"a simulation worker died (exit code {code})", "rollout", "`vla doctor` checks rendering") from error


def rollout(
    policy: Policy | None,
    episodes: Iterable[Episode],
    workers: Workers,
    progress: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Runs episodes on the workers and returns their results in the episodes' order.

    Args:
        policy: acts for all workers at once; None is the scripted expert, without pictures.
        progress: called with each result as it comes.

    Raises:
        UserError: the policy answers a wrong shape or NaN, or a worker died.
    """
    todo = collections.deque(enumerate(episodes))
    results: dict[int, Result] = {}
    running: dict[Connection, tuple[int, Episode]] = {}
    acting = RecedingHorizon(policy) if policy is not None else None
    waiting: dict[Connection, Observation] = {}

    def begin(pipe: Connection) -> None:
        if todo:
            running[pipe] = todo.popleft()
            if acting is not None:
                acting.reset([str(running[pipe][0])])
            pipe.send(("start" if acting is not None else "expert", running[pipe][1]))

    for pipe in workers.pipes:
        begin(pipe)
    while running:
        for pipe in wait([p for p in running if p not in waiting]):
            assert isinstance(pipe, Connection)
            message = workers.receive(pipe)
            if isinstance(message, Result):
                number, _ = running.pop(pipe)
                results[number] = message
                if progress:
                    progress(message)
                begin(pipe)
            else:
                waiting[pipe] = message
        if acting is None or len(waiting) < len(running):
            continue
        # Every running worker waits: one call for all of them.
        pipes = list(waiting)
        observations = [dataclasses.replace(waiting[p], id=str(running[p][0])) for p in pipes]
        for pipe, observation, chunk in zip(pipes, observations, acting.act(observations), strict=True):
            action = acting.contract.embodiment(observation.embodiment).action.check(chunk.actions[0], "the policy's action")
            pipe.send(("step", action, bool(chunk.terminate[0]), acting.needs(observation.id)))
        waiting.clear()
    return [results[i] for i in sorted(results)]
