"""Episodes of robosuite's own tasks, step by step, in a worker process."""

from __future__ import annotations

import time

import numpy as np

from vla.observation import Observation
from vla.sim.episodes import NONSENSE, Episode, Result
from vla.sim.gl import refuse_black
from vla.sim.robosuite.embodiment import CAMERAS, embodiment
from vla.sim.robosuite.environment import SEED, Environment
from vla.sim.robosuite.experts import expert_action
from vla.sim.simulator import VIDEO_SIZE, Advice, View


class RobosuiteSimulation:
    """robosuite's environments, each made when its task first comes up, with an episode in one of them.

    Success is robosuite's own check, the first time that it holds. At the horizon "nothing grasped" if nothing was, "dropped" if
    something was and no longer is, else "timeout". What is done unasked is "wrong object", as on the tabletop.

    Attributes:
        environment: of the present episode.
    """

    environment: Environment

    def __init__(self) -> None:
        self._environments: dict[str, Environment] = {}

    def start(self, episode: Episode, look: bool = True) -> Observation:
        """Sets the episode up; the first observation, with images if the policy will look."""
        if episode.task not in self._environments:
            self._environments[episode.task] = Environment(episode.task)
        self.environment = self._environments[episode.task]
        self.episode, self.began = episode, time.perf_counter()
        self.environment.reset(episode.seed)
        self.has_goal = bool(episode.instruction) or episode.kind == "correct"
        nonsense = str(np.random.default_rng((SEED, episode.seed, 2)).choice(NONSENSE))
        by_kind = {"correct": self.environment.instruction, "nonsense": nonsense, "empty": ""}
        self.instruction = episode.instruction or by_kind[episode.kind]
        self.state = self.environment.state_hash()
        self.steps, self.held, self.failure = 0, False, None
        self.frames: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []
        self._record()
        return self.observe(look)

    def observe(self, look: bool) -> Observation:
        images = refuse_black(self.environment.images()) if look else {}
        return Observation(self.episode.id, images, self.environment.state(), self.instruction, embodiment(self.episode.task)[0])

    def instruct(self, episode: Episode) -> Observation:
        """Goes on with the episode's instruction; the scene stays as it is."""
        self.episode, self.instruction, self.has_goal = episode, episode.instruction, bool(episode.instruction)
        self.steps, self.held, self.failure = 0, False, None
        return self.observe(True)

    def view(self) -> View:
        return View(self._pictures(), goal=self.environment.task.wordings[0] if self.has_goal else "")

    def advise(self) -> Advice | None:
        """What the scripted expert would do now; None where nothing is asked for, or the task has no expert."""
        if not (self.has_goal and self.environment.task.expert):
            return None
        return Advice(expert_action(self.environment), self.environment.success(), {"target": ""})

    def step(self, action: np.ndarray, terminate: bool, look: bool) -> Observation | Result:
        """Carries out one action; the next observation (with images if the policy will look), or how the episode ended."""
        self.environment.step(np.asarray(action, np.float64))
        self.steps += 1
        self.actions += [np.asarray(action)] if self.episode.video else []
        self._record()
        self._judge(terminate)
        return self.observe(look) if self.failure is None else self.result()

    def expert(self, episode: Episode) -> Result:
        """Runs a whole episode with the scripted expert, which needs no images; without an instruction it holds still."""
        self.start(episode, look=False)
        still = np.array([0.0] * 6 + [-1.0])[: embodiment(episode.task)[1].action.size]
        while self.failure is None:
            self.step(expert_action(self.environment) if self.has_goal else still, False, False)
        return self.result()

    def result(self) -> Result:
        done = self.failure in ("", "wrong object")
        goal = self.environment.task.wordings[0]
        return Result.of(
            self.episode,
            instruction=self.instruction,
            target=goal if self.has_goal else "",
            first=goal if done else "",
            failure=self.failure or "",
            steps=self.steps,
            executed=done,
            seconds=time.perf_counter() - self.began,
            state=self.state,
            frames=self.frames,
            actions=self.actions,
        )

    def _judge(self, terminate: bool) -> None:
        holds = self.environment.task.grasps and self.environment.holds()
        self.held |= holds
        if self.environment.success():
            self.failure = "" if self.has_goal else "wrong object"
        elif terminate:
            self.failure = "terminated early"
        elif self.steps >= (self.episode.horizon or self.environment.task.horizon):
            under_way = holds or not self.environment.task.grasps
            self.failure = "timeout" if under_way else "dropped" if self.held else "nothing grasped"

    def _record(self) -> None:
        if self.episode.video:
            self.frames.append(np.concatenate(list(self._pictures().values()), 1))

    def _pictures(self) -> dict[str, np.ndarray]:
        # A renderer hands out its own memory.
        return {camera: self.environment.render(camera, VIDEO_SIZE).copy() for camera in CAMERAS}

    def close(self) -> None:
        for environment in self._environments.values():
            environment.close()
