"""What a worker process holds: the simulations of the tasks that come up, each made when its first episode begins."""

from __future__ import annotations

import numpy as np

from vla.observation import Observation
from vla.sim.episodes import Episode, Result
from vla.sim.simulation import Simulation
from vla.sim.stock_simulation import StockSimulation
from vla.sim.tasks import STOCK_TASKS


class SimulatorWorker:
    """Runs one episode at a time. All tasks of the tabletop share one compiled model; each of robosuite's own has its own."""

    def __init__(self):
        self._made: dict[str, Simulation | StockSimulation] = {}

    def start(self, episode: Episode, look: bool = True) -> Observation:
        return self._of(episode.task).start(episode, look)

    def step(self, action: np.ndarray, terminate: bool, look: bool) -> Observation | Result:
        return self._now.step(action, terminate, look)

    def expert(self, episode: Episode) -> Result:
        return self._of(episode.task).expert(episode)

    def _of(self, task: str) -> Simulation | StockSimulation:
        name = task if task in STOCK_TASKS else ""
        if name not in self._made:
            self._made[name] = StockSimulation(name) if name else Simulation()
        self._now = self._made[name]
        return self._now
