"""What a worker process holds: a simulation of each simulator whose tasks come up, made when its first episode begins."""

from __future__ import annotations

import numpy as np

from vla.observation import Observation
from vla.sim.episodes import Episode, Result
from vla.sim.registry import simulator_of
from vla.sim.simulator import Advice, Simulation


class SimulatorWorker:
    """Runs one episode at a time, of any task; a `Simulation` itself."""

    def __init__(self) -> None:
        self._simulations: dict[str, Simulation] = {}

    def start(self, episode: Episode, look: bool = True) -> Observation:
        return self._select(episode.task).start(episode, look)

    def step(self, action: np.ndarray, terminate: bool, look: bool) -> Observation | Result:
        return self._current.step(action, terminate, look)

    def expert(self, episode: Episode) -> Result:
        return self._select(episode.task).expert(episode)

    def advise(self) -> Advice:
        return self._current.advise()

    def _select(self, task: str) -> Simulation:
        simulator = simulator_of(task)
        if simulator.name not in self._simulations:
            self._simulations[simulator.name] = simulator.simulation()
        self._current = self._simulations[simulator.name]
        return self._current
