"""A simulator in one file: a point on a line, which one action moves. Entry point: vla.simulators, point."""

import hashlib

import numpy as np

from vla.contract import Camera, Embodiment
from vla.observation import Observation
from vla.sim.episodes import Result
from vla.sim.simulator import Simulator, TaskSpec
from vla.space import Space

POINT = Embodiment(
    cameras=(Camera("top", 32, 32),),
    state=Space(names=("x",), units=("m",), low=(-1.0,), high=(1.0,)),
    action=Space(names=("dx",), units=("m",), low=(-0.1,), high=(0.1,)),
    control_hz=5.0,
)
GOALS = {"point-left": -0.5, "point-right": 0.5}


class PointSimulation:
    def start(self, episode, look=True):
        self.episode, self.goal, self.steps = episode, GOALS[episode.task], 0
        self.x = float(np.random.default_rng(episode.seed).uniform(-0.2, 0.2))
        self.state = hashlib.sha256(str(self.x).encode()).hexdigest()
        return self.observe(look)

    def observe(self, look):
        image = np.zeros((32, 32, 3), np.uint8)
        image[:, int(16 + 15 * self.x)] = 255
        instruction = self.episode.instruction or SIMULATOR.tasks[self.episode.task].wordings[0]
        return Observation(self.episode.id, {"top": image} if look else {}, np.array([self.x]), instruction, "point")

    def step(self, action, terminate, look):
        self.x, self.steps = float(np.clip(self.x + action[0], -1, 1)), self.steps + 1
        success = abs(self.x - self.goal) < 0.05
        horizon = self.episode.horizon or SIMULATOR.tasks[self.episode.task].horizon
        if not (success or terminate or self.steps >= horizon):
            return self.observe(look)
        return Result.of(
            self.episode,
            instruction=self.observe(False).instruction,
            target=self.episode.task,
            first=self.episode.task if success else "",
            failure="" if success else "timeout",
            steps=self.steps,
            executed=success,
            state=self.state,
        )

    def expert(self, episode):
        result = self.start(episode, look=False)
        while not isinstance(result, Result):
            result = self.step(np.clip([self.goal - self.x], -0.1, 0.1), False, False)
        return result


class PointSimulator(Simulator):
    name = "point"
    tasks = {name: TaskSpec(name, (f"go {name.removeprefix('point-')}",), horizon=20, expert=True) for name in GOALS}

    def embodiment(self, task):
        return "point", POINT

    def simulation(self):
        return PointSimulation()


SIMULATOR = PointSimulator()
