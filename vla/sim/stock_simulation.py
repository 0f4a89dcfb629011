"""One of robosuite's own tasks as an environment slot: the same episodes, step by step, as the tabletop's `Simulation`."""

from __future__ import annotations

import time

import numpy as np

from vla.observation import Observation
from vla.sim.embodiment import STOCK_CAMERAS, robot
from vla.sim.episodes import NONSENSE, Episode, Result
from vla.sim.experts.stock import stock_action
from vla.sim.simulation import VIDEO_SIZE, refuse_black
from vla.sim.stock import SEED, Stock


class StockSimulation:
    """A robosuite environment with an episode on it. Success is robosuite's own check, the first time that it holds.

    At the horizon "nothing grasped" if nothing was, "dropped" if something was and no longer is, else "timeout"; what is done
    though nothing was asked for is "wrong object", as on the tabletop.

    Args:
        task: its name, e.g. "robosuite-Lift".
    """

    def __init__(self, task: str):
        self.stock = Stock(task)
        self.robot, body = robot(task)
        self._still = np.array([0.0] * 6 + [-1.0])[: body.action.size]

    def start(self, episode: Episode, look: bool = True) -> Observation:
        """Sets the episode up; the first observation, with pictures if the policy will look."""
        self.episode, self.began = episode, time.perf_counter()
        self.stock.reset(episode.seed)
        self.asked = bool(episode.instruction) or episode.kind == "correct"
        nonsense = str(np.random.default_rng((SEED, episode.seed, 2)).choice(NONSENSE))
        said = {"correct": self.stock.instruction, "nonsense": nonsense, "empty": ""}
        self.instruction = episode.instruction or said[episode.kind]
        self.state = self.stock.state_hash()
        self.steps, self.held, self.failure = 0, False, None
        self.frames: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []
        self._record()
        return self.observe(look)

    def observe(self, look: bool) -> Observation:
        images = refuse_black(self.stock.images()) if look else {}
        return Observation(self.episode.id, images, self.stock.state(), self.instruction, self.robot)

    def step(self, action: np.ndarray, terminate: bool, look: bool) -> Observation | Result:
        """Carries out one action; the next observation (with pictures if the policy will look), or how the episode ended."""
        self.stock.step(np.asarray(action, np.float64))
        self.steps += 1
        self.actions += [np.asarray(action)] if self.episode.video else []
        self._record()
        self._judge(terminate)
        return self.observe(look) if self.failure is None else self.result()

    def expert(self, episode: Episode) -> Result:
        """Runs a whole episode with the scripted expert, which needs no pictures; told nothing, it holds still."""
        self.start(episode, look=False)
        while self.failure is None:
            self.step(stock_action(self.stock) if self.asked else self._still, False, False)
        return self.result()

    def result(self) -> Result:
        done = self.failure in ("", "wrong object")
        goal = self.stock.task.wordings[0]
        return Result(
            seed=self.episode.seed,
            kind=self.episode.kind,
            instruction=self.instruction,
            objects=[],
            target=goal if self.asked else "",
            first=goal if done else "",
            failure=self.failure or "",
            steps=self.steps,
            executed=done,
            seconds=time.perf_counter() - self.began,
            task=self.episode.task,
            variation=self.episode.variation.name,
            state=self.state,
            frames=self.frames,
            actions=self.actions,
        )

    def _judge(self, terminate: bool) -> None:
        holds = self.stock.task.grasps and self.stock.holds()
        self.held |= holds
        if self.stock.success():
            self.failure = "" if self.asked else "wrong object"
        elif terminate:
            self.failure = "terminated early"
        elif self.steps >= (self.episode.horizon or self.stock.task.horizon):
            under_way = holds or not self.stock.task.grasps
            self.failure = "timeout" if under_way else "dropped" if self.held else "nothing grasped"

    def _record(self) -> None:
        if self.episode.video:
            self.frames.append(np.concatenate([self.stock.render(camera, VIDEO_SIZE) for camera in STOCK_CAMERAS], 1))
