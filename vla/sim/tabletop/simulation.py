"""Episodes on the tabletop, step by step, in a worker process."""

from __future__ import annotations

import time

import numpy as np

from vla.observation import Observation
from vla.sim.episodes import Episode, Result
from vla.sim.gl import refuse_black
from vla.sim.simulator import VIDEO_SIZE, Advice, View
from vla.sim.tabletop.about import about
from vla.sim.tabletop.embodiment import EMBODIMENT_NAME
from vla.sim.tabletop.episodes import goal_in, set_up, start_noise
from vla.sim.tabletop.experts import done, expert_action
from vla.sim.tabletop.tasks import find_task
from vla.sim.tabletop.tasks.base import describe
from vla.sim.tabletop.tasks.outcome import Outcome
from vla.sim.tabletop.variation import TabletopVariation

STILL = (0.0,) * 6 + (-1.0,)


class TabletopSimulation:
    """A tabletop with an episode on it.

    Raises:
        RuntimeError: an image is all black: the OpenGL context is lost.
    """

    def __init__(self):
        # Only worker processes load the simulator: a software renderer brings a compiler that torch's does not get on with.
        from vla.sim.tabletop.scene_variation import SceneVariation
        from vla.sim.tabletop.tabletop import Tabletop

        self.table = Tabletop()
        self.scene_variation = SceneVariation(self.table)

    def start(self, episode: Episode, look: bool = True) -> Observation:
        """Sets the episode up; the first observation, with images if the policy will look."""
        self.episode, self.began = episode, time.perf_counter()
        scene, goal, self.instruction = set_up(episode)
        self.scene_variation.apply(TabletopVariation.of(episode.variation))
        self.table.reset(scene, start_noise(episode))
        self.state = self.scene_variation.state_hash()
        self.drawn = self.instruction, goal
        self.outcome = Outcome(find_task(episode.task), goal, episode.horizon)
        self.frames: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []
        self._record()
        return self.observe(look)

    def observe(self, look: bool) -> Observation:
        images = refuse_black(self.table.images()) if look else {}
        return Observation(self.episode.id, images, self.table.state(), self.instruction, EMBODIMENT_NAME)

    def instruct(self, episode: Episode) -> Observation:
        """Goes on with the episode's instruction; scene and robot stay as they are."""
        task, scene = self.outcome.task, self.table.scene
        # The drawn sentence may tell its object otherwise than by name.
        goal = self.drawn[1] if episode.instruction == self.drawn[0] else goal_in(task, scene, episode.instruction)
        self.episode, self.instruction = episode, episode.instruction
        self.outcome = Outcome(task, goal, episode.horizon)
        return self.observe(True)

    def view(self) -> View:
        goal, scene = self.outcome.goal, self.table.scene
        return View(self._pictures(), tuple(o.name for o in scene), "" if goal is None else describe(scene, goal))

    def advise(self) -> Advice | None:
        """What the scripted expert would do now; None where nothing is asked for."""
        goal = self.outcome.goal
        if goal is None:
            return None
        return Advice(expert_action(self.table, goal), done(self.table, goal), about(self.table, goal))

    def step(self, action: np.ndarray, terminate: bool, look: bool) -> Observation | Result:
        """Carries out one action; the next observation (with images if the policy will look), or how the episode ended."""
        self.table.step(action)
        self.outcome.update(self.table, terminate)
        self.actions += [np.asarray(action)] if self.episode.video else []
        self._record()
        return self.result() if self.outcome.over else self.observe(look)

    def expert(self, episode: Episode) -> Result:
        """Runs a whole episode with the scripted expert, which needs no images; without an instruction it holds still."""
        self.start(episode, look=False)
        while not self.outcome.over:
            goal = self.outcome.goal
            self.step(np.array(STILL) if goal is None else expert_action(self.table, goal), False, False)
        return self.result()

    def result(self) -> Result:
        outcome, scene = self.outcome, self.table.scene
        return Result.of(
            self.episode,
            instruction=self.instruction,
            objects=[o.name for o in scene],
            target="" if outcome.goal is None else describe(scene, outcome.goal),
            first="" if outcome.reached is None else describe(scene, outcome.reached),
            failure=outcome.failure or "",
            steps=outcome.steps,
            executed=outcome.executed,
            other_tasks=None if outcome.goal is None else [f"{g.task}: {describe(scene, g)}" for g in outcome.others],
            seconds=time.perf_counter() - self.began,
            state=self.state,
            frames=self.frames,
            actions=self.actions,
        )

    def _record(self) -> None:
        if self.episode.video:
            self.frames.append(np.concatenate(list(self._pictures().values()), 1))

    def _pictures(self) -> dict[str, np.ndarray]:
        return {camera: self.table.render(camera, VIDEO_SIZE) for camera in self.table.cameras}
