"""Episodes of LIBERO's tasks, step by step, in a worker process."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from vla.observation import Observation
from vla.sim.episodes import NONSENSE, Episode, Result
from vla.sim.gl import refuse_black
from vla.sim.libero.benchmark import free_memory
from vla.sim.libero.embodiment import CAMERAS, EMBODIMENT_NAME
from vla.sim.libero.goals import Progress, goal_of, goals_of
from vla.sim.libero.rendering import Rendering
from vla.sim.libero.tasks import TASKS, Goal, LiberoTask
from vla.sim.libero.variation import LiberoVariation
from vla.sim.simulator import VIDEO_SIZE, Advice, View

if TYPE_CHECKING:
    from vla.sim.libero.environment import Environment

SEED = 9_100_000
"""Seeds of drawn sentences start here."""


class LiberoSimulation:
    """The environment of one task at a time, with an episode in it.

    By a published protocol an episode succeeds when its goal holds for the first time. By ours it must hold for ten steps, and
    an episode in which the scene's other goal is reached first ends as "wrong object". At the horizon the failure is "nothing
    grasped" if nothing was, "dropped" if something was and no longer is, else "timeout".

    Args:
        make: makes the environment of a task; None: the benchmark's.
    """

    environment: Environment

    def __init__(self, make: Callable[[LiberoTask], Environment] | None = None) -> None:
        self._make = make or _make
        self._environment: Environment | None = None

    def start(self, episode: Episode, look: bool = True) -> Observation:
        """Sets the episode up; the first observation, with images if the policy will look."""
        self.episode, self.began = episode, time.perf_counter()
        self.task, variation = TASKS[episode.task], LiberoVariation.of(episode.variation)
        self.protocol, self.environment = variation.rules, self._select(episode.task)
        self.rendering = Rendering(self.protocol, variation.rendering, episode.cameras)
        self.environment.reset(self.protocol, episode.seed, self.rendering if look else None)
        self.state, self.fixtures = self.environment.state_hash(), self.environment.fixtures()
        nonsense = str(np.random.default_rng((SEED, episode.seed)).choice(NONSENSE))
        other = self.task.other.instruction if self.task.other else ""
        by_kind = {"correct": self.task.goal.instruction, "swapped": other, "nonsense": nonsense, "empty": ""}
        self.instruction = episode.instruction or by_kind[episode.kind]
        self._ask()
        self.frames: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []
        self._record()
        return self.observe(look)

    def observe(self, look: bool) -> Observation:
        seen = self.environment.look(self.rendering) if look else self.environment.seen
        return Observation(self.episode.id, refuse_black(seen.images), seen.state, self.instruction, EMBODIMENT_NAME)

    def instruct(self, episode: Episode) -> Observation:
        """Goes on with the episode's instruction; the scene stays as it is."""
        self.episode, self.instruction = episode, episode.instruction
        self._ask()
        return self.observe(True)

    def view(self) -> View:
        return View(self._images(), self.environment.objects(), self.goal.instruction if self.goal else "")

    def advise(self) -> Advice | None:
        """There are no scripted experts yet."""
        return None

    def step(self, action: np.ndarray, terminate: bool, look: bool) -> Observation | Result:
        """Carries out one action; the next observation (with images if the policy will look), or how the episode ended."""
        self.environment.step(np.asarray(action, np.float64), self.rendering if look else None)
        self.steps += 1
        self.actions += [np.asarray(action)] if self.episode.video else []
        self._record()
        self._judge(terminate)
        return self.observe(look) if self.failure is None else self.result()

    def expert(self, episode: Episode) -> Result:
        raise NotImplementedError("LIBERO's tasks have no scripted experts")

    def result(self) -> Result:
        first = self.progress.reached
        result = Result.of(
            self.episode,
            instruction=self.instruction,
            target=self.goal.instruction if self.goal else "",
            first=first.instruction if first else "",
            objects=self.environment.objects(),
            failure=self.failure or "",
            steps=self.steps,
            executed=first is not None,
            seconds=time.perf_counter() - self.began,
            state=self.state,
            frames=self.frames,
            actions=self.actions,
        )
        return dataclasses.replace(result, more={**result.more, "fixtures": self.fixtures})

    def _ask(self) -> None:
        """An episode begins, or goes on, with the present instruction."""
        goal = goal_of(self.task, self.instruction)
        self.goal: Goal | None = goal if goal and self.environment.knows(goal) else None
        watched = goals_of(self.task)
        if self.goal and self.goal not in watched:
            watched.append(self.goal)
        self.progress = Progress(watched, self.protocol.hold)
        self.steps, self.held, self.failure = 0, False, None

    def _judge(self, terminate: bool) -> None:
        self.progress.update(self.environment.holds)
        grasps = self.environment.grasps()
        self.held |= grasps
        if self.goal and self.goal in self.progress.done and (self.goal is self.progress.reached or not self.protocol.ends_wrong):
            self.failure = ""
        elif self.progress.reached and (self.protocol.ends_wrong or self.goal is None):
            self.failure = "wrong object"
        elif terminate:
            self.failure = "terminated early"
        elif self.steps >= (self.episode.horizon or self.protocol.horizon(self.task.suite) or self.task.horizon):
            self.failure = "timeout" if grasps else "dropped" if self.held else "nothing grasped"

    def _select(self, task: str) -> Environment:
        """The environment of a task; that of another task is closed first, as two would not fit."""
        if self._environment is None or self._environment.task.name != task:
            self.close()
            self._environment = self._make(TASKS[task])
        return self._environment

    def _record(self) -> None:
        if self.episode.video:
            self.frames.append(np.concatenate(list(self._images().values()), 1))

    def _images(self) -> dict[str, np.ndarray]:
        return {camera: self.environment.render(camera, VIDEO_SIZE, self.rendering.drawing) for camera in CAMERAS}

    def close(self) -> None:
        if self._environment is not None:
            self._environment.close()
            del self.environment
        self._environment = None
        free_memory()


def _make(task: LiberoTask) -> Environment:
    # Not earlier: a process that only reads what is here loads no benchmark.
    from vla.sim.libero.environment import Environment

    return Environment(task)
