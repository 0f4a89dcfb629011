"""Episodes of a policy that an expert watches, in a worker process: it says what it would have done in every state, and in some
stretches acts itself (DAgger; Ross, Gordon, Bagnell 2011, arXiv 1011.0686)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from vla.datasets.shards import encode_member
from vla.observation import Observation
from vla.sim.episodes import Episode, Result
from vla.sim.simulator import Advice, Simulation

STRETCH = 8
"""Steps for which who acts stays the same: as long as a movement, so that the expert leads somewhere."""
APART = 0.25
"""Share of an action dimension's range by which what was done may differ from the label. A chunk of labels ends where it differs
more: the labels after it belong to a state to which the labels before it do not lead."""


@dataclasses.dataclass(frozen=True)
class AdvisedResult(Result):
    """How an episode went, and its steps.

    Attributes:
        steps_written: per step the encoded members of its sample and its description.
        labels: float32 [T, A], the expert's actions.
        states: float32 [T, S].
    """

    steps_written: list[tuple[dict[str, bytes], dict[str, Any]]] = dataclasses.field(default_factory=list, repr=False)
    labels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0), repr=False)
    states: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0), repr=False)


class AdvisedSimulation:
    """A simulation in which every step is labelled, and carried out by the policy or by the expert: the scripted one, or a policy
    whose action comes with that of the policy that acts.

    Args:
        beta: probability that the expert acts, drawn for each stretch of STRETCH steps of an episode.
        seed: of that draw.
        ranges: [A], the action space's ranges (high - low).
        make: makes the simulation.
    """

    def __init__(self, beta: float, seed: int, ranges: np.ndarray, make: Callable[[], Simulation]):
        self.simulation = make()
        self.beta, self.seed, self.ranges = beta, seed, ranges

    def start(self, episode: Episode, look: bool = True) -> Observation:
        self._rng = np.random.default_rng((self.seed, 7, episode.seed, len(episode.kind)))
        self._steps: list[tuple[Observation, np.ndarray, dict[str, Any]]] = []
        self._segment, self._leads = 0, False
        self._seen = self.simulation.start(episode, True)
        return self._seen

    def step(
        self, action: np.ndarray, terminate: bool, look: bool, label: np.ndarray | None = None, done: bool = False
    ) -> Observation | Result:
        """Carries out the policy's action or the expert's; what the policy says of the end is not heeded.

        Args:
            label, done: what an expert that is a policy would do; None asks the scripted one.
        """
        if len(self._steps) % STRETCH == 0:
            self._leads = bool(self._rng.random() < self.beta)
        advice = self.simulation.advise() if label is None else Advice(label, done, {"target": ""})
        assert advice is not None  # these episodes ask for something, of a task with an expert
        taken = advice.action if self._leads else action
        about = {"terminate": int(advice.done), "segment": self._segment, "actor": "expert" if self._leads else "policy"}
        self._steps.append((self._seen, advice.action.astype(np.float32), {**about, **advice.about}))
        self._segment += bool((np.abs(taken - advice.action) > APART * self.ranges).any())
        answer = self.simulation.step(taken, False, True)
        if isinstance(answer, Result):
            return self._written(answer)
        self._seen = answer
        return answer

    def _written(self, result: Result) -> AdvisedResult:
        steps = []
        for number, (seen, label, about) in enumerate(self._steps):
            members = {f"{name}.jpg": image for name, image in seen.images.items()}
            members |= {"action.npy": label, "state.npy": seen.state.astype(np.float32)}
            about |= {"step": number, "length": len(self._steps), "instruction": seen.instruction, "embodiment": seen.embodiment}
            about |= {"source": "dagger", "success": result.success, "seed": result.seed, "kind": result.kind}
            steps.append(({name: encode_member(name, value) for name, value in members.items()}, about))
        labels, states = np.array([label for _, label, _ in self._steps]), np.array([s.state for s, _, _ in self._steps])
        fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
        return AdvisedResult(**fields, steps_written=steps, labels=labels, states=states.astype(np.float32))
