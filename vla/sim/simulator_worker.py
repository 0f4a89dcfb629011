"""What a worker process holds: a simulation of each simulator whose tasks come up, made when its first episode begins."""

from __future__ import annotations

import numpy as np

from vla.observation import Observation
from vla.sim.episodes import Episode, Result
from vla.sim.registry import simulator_of
from vla.sim.simulator import Advice, Simulation, View


class SimulatorWorker:
    """Runs one episode at a time, of any task; a `Simulation` itself."""

    def __init__(self) -> None:
        self._simulations: dict[str, Simulation] = {}

    def start(self, episode: Episode, look: bool = True) -> Observation:
        self.episode, self._seen = episode, self._select(episode.task).start(episode, look)
        return self._seen

    def step(self, action: np.ndarray, terminate: bool, look: bool) -> Observation | Result:
        answer = self._current.step(action, terminate, look)
        if isinstance(answer, Observation):
            self._seen = answer
        return answer

    def view(self) -> View:
        """What a person sees now; the policy's last images where the simulation says nothing of it."""
        view = getattr(self._current, "view", None)
        return view() if view else View(self._seen.images, goal=self.episode.task)

    def instruct(self, episode: Episode) -> Observation:
        """Goes on as another episode of the same scene, with a sentence of the user's: steps and success count anew.

        Scene and robot stay as they are; they begin again where the simulation has no other way.
        """
        if not (instruct := getattr(self._current, "instruct", None)):
            return self.start(episode)
        self.episode, self._seen = episode, instruct(episode)
        return self._seen

    def advise(self) -> Advice | None:
        """What the scripted expert would do now; None where there is none, or nothing that it could do."""
        advise = getattr(self._current, "advise", None)
        return advise() if advise else None

    def expert(self, episode: Episode) -> Result:
        return self._select(episode.task).expert(episode)

    def _select(self, task: str) -> Simulation:
        simulator = simulator_of(task)
        if simulator.name not in self._simulations:
            self._simulations[simulator.name] = simulator.simulation()
        self._current = self._simulations[simulator.name]
        return self._current
