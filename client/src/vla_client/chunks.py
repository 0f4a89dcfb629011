"""Turns chunks of actions into one action per control step."""

from typing import Any, Callable, Dict, Sequence

import numpy as np

Infer = Callable[[Dict[str, Any]], Dict[str, Any]]


class RecedingHorizon:
    """Executes the first `execute` actions of a chunk, then asks again.

    Args:
        infer: observation -> {"actions": [T, A]}, e.g. `Connection.infer`.
        execute: actions executed of each chunk; the server's contract has the number it was trained for.
    """

    def __init__(self, infer: Infer, execute: int):
        if execute < 1:
            raise ValueError("execute at least 1 action of each chunk")
        self.infer, self.execute = infer, execute
        self._queue = []  # type: List[np.ndarray]

    def reset(self) -> None:
        self._queue = []

    @property
    def needs_observation(self) -> bool:
        """Whether the next step uses its observation; otherwise no images need to be taken."""
        return not self._queue

    def step(self, observation: Dict[str, Any]) -> np.ndarray:
        """Returns the next action [A]."""
        if not self._queue:
            self._queue = list(_actions(self.infer(observation))[: self.execute])
        return self._queue.pop(0)


class TemporalEnsemble:
    """Asks at every step and averages the actions that overlapping chunks have for it, with weights exp(-decay * age).

    After ACT (Zhao et al. 2023, section IV) in reverse order: there, the oldest chunk has the largest weight.

    Args:
        infer: observation -> {"actions": [T, A]}.
        decay: how fast older chunks lose weight.
        newest: dimensions that are taken from the newest chunk and never averaged, such as a gripper. Absolute rotation vectors,
            quaternions and matrices belong here: the mean of their numbers is not the mean of the rotations.
        angles: dimensions that are absolute angles in radians. They are averaged across the jump from pi to -pi.
    """

    needs_observation = True

    def __init__(self, infer: Infer, decay: float = 0.5, newest: Sequence[int] = (-1,), angles: Sequence[int] = ()):
        self.infer, self.decay, self.newest, self.angles = infer, decay, list(newest), list(angles)
        self._chunks = []  # type: List[np.ndarray]

    def reset(self) -> None:
        self._chunks = []

    def step(self, observation: Dict[str, Any]) -> np.ndarray:
        """Returns the next action [A]."""
        chunk = _actions(self.infer(observation))
        self._chunks = [older[1:] for older in self._chunks if len(older) > 1] + [chunk]
        weights = np.exp(-self.decay * np.arange(len(self._chunks))[::-1])
        actions = np.array([each[0] for each in self._chunks])
        actions[:, self.angles] = chunk[0, self.angles] + wrapped(actions[:, self.angles] - chunk[0, self.angles])
        action = np.average(actions, axis=0, weights=weights)
        action[self.angles] = wrapped(action[self.angles])
        action[self.newest] = chunk[0, self.newest]
        return action


def wrapped(angles: np.ndarray) -> np.ndarray:
    """Returns the same angles (rad), from -pi to pi."""
    return np.arctan2(np.sin(angles), np.cos(angles))


def _actions(answer: Dict[str, Any]) -> np.ndarray:
    actions = np.array(answer["actions"], np.float64)
    if actions.ndim != 2 or not len(actions):
        raise ValueError("a chunk has shape [steps, dimensions], not {}".format(list(actions.shape)))
    return actions
