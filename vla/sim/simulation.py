"""One environment slot: runs one episode at a time, step by step, in a worker process."""

from __future__ import annotations

import time

import numpy as np

from vla.observation import Observation
from vla.sim.embodiment import EMBODIMENT_NAME
from vla.sim.episodes import Episode, Result, set_up, start_noise
from vla.sim.experts import expert_action
from vla.sim.tasks import find_task
from vla.sim.tasks.base import describe
from vla.sim.tasks.outcome import Outcome

VIDEO_SIZE = 256
STILL = (0.0,) * 6 + (-1.0,)


class Simulation:
    """A tabletop with an episode on it.

    Raises:
        RuntimeError: a picture is all black: the OpenGL context is lost.
    """

    def __init__(self):
        # Only worker processes load the simulator: a software renderer brings a compiler that torch's does not get on with.
        from vla.sim.scene_variation import SceneVariation
        from vla.sim.tabletop import Tabletop

        self.table = Tabletop()
        self.wardrobe = SceneVariation(self.table)

    def start(self, episode: Episode, look: bool = True) -> Observation:
        """Sets the episode up; the first observation, with pictures if the policy will look."""
        self.episode, self.began = episode, time.perf_counter()
        scene, goal, self.instruction = set_up(episode)
        self.wardrobe.dress(episode.variation)
        self.table.reset(scene, start_noise(episode))
        self.state = self.wardrobe.state_hash()
        self.outcome = Outcome(find_task(episode.task), goal, episode.horizon)
        self.frames: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []
        self._record()
        return self.observe(look)

    def observe(self, look: bool) -> Observation:
        images = refuse_black(self.table.images()) if look else {}
        return Observation(self.episode.id, images, self.table.state(), self.instruction, EMBODIMENT_NAME)

    def step(self, action: np.ndarray, terminate: bool, look: bool) -> Observation | Result:
        """Carries out one action; the next observation (with pictures if the policy will look), or how the episode ended."""
        self.table.step(action)
        self.outcome.update(self.table, terminate)
        self.actions += [np.asarray(action)] if self.episode.video else []
        self._record()
        return self.result() if self.outcome.over else self.observe(look)

    def expert(self, episode: Episode) -> Result:
        """Runs a whole episode with the scripted expert, which needs no pictures; told nothing, it holds still."""
        self.start(episode, look=False)
        while not self.outcome.over:
            goal = self.outcome.goal
            self.step(np.array(STILL) if goal is None else expert_action(self.table, goal), False, False)
        return self.result()

    def result(self) -> Result:
        outcome, scene = self.outcome, self.table.scene
        return Result(
            seed=self.episode.seed,
            kind=self.episode.kind,
            instruction=self.instruction,
            objects=[o.name for o in scene],
            target="" if outcome.goal is None else describe(scene, outcome.goal),
            first="" if outcome.reached is None else describe(scene, outcome.reached),
            failure=outcome.failure or "",
            steps=outcome.steps,
            executed=outcome.executed,
            seconds=time.perf_counter() - self.began,
            task=self.episode.task,
            variation=self.episode.variation.name,
            state=self.state,
            frames=self.frames,
            actions=self.actions,
        )

    def _record(self) -> None:
        if self.episode.video:
            pictures = [self.table.render(camera, VIDEO_SIZE) for camera in self.table.cameras]
            self.frames.append(np.concatenate(pictures, 1))


def refuse_black(images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The pictures; RuntimeError if one is all black."""
    for camera, picture in images.items():
        if not picture.any():
            raise RuntimeError(f"the picture of camera {camera!r} is black: the OpenGL context is lost")
    return images
