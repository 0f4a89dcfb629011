"""What needs no policy: the mean action, the last action repeated, and the actions that followed the nearest state.

Each is asked where the policy is asked, and its answer is executed for as many steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from vla.datasets.demonstrations import Demonstration
from vla.evaluation.offline.replay import Replay

Baseline = Callable[[Replay], np.ndarray]
"""Replay of T steps -> actions, float64 [T, A]."""
LARGEST = 50_000
"""Largest number of states to search for the nearest one; of more, every second, third … is taken."""


def baselines(training: Sequence[Demonstration]) -> dict[str, Baseline]:
    """Returns the baselines by name, fitted to the training demonstrations (of one robot)."""
    actions = np.concatenate([one.action for one in training]).astype(np.float64)
    return {"mean": _mean(actions), "last": _last(actions.mean(0)), "nearest": _nearest(training)}


def _mean(actions: np.ndarray) -> Baseline:
    mean = actions.mean(0)
    return lambda replay: np.tile(mean, (len(replay.action), 1))


def _last(first: np.ndarray) -> Baseline:
    """Repeats the demonstrated action before each call; before the first there is none, and `first` takes its place."""

    def repeat(replay: Replay) -> np.ndarray:
        before = np.concatenate([first[None], replay.demonstration.action.astype(np.float64)])
        return before[_call_of_each_step(replay)]

    return repeat


def _nearest(training: Sequence[Demonstration]) -> Baseline:
    """The actions after the training state that is nearest, with each dimension in units of its standard deviation."""
    states = np.concatenate([one.state for one in training]).astype(np.float64)
    actions = np.concatenate([one.action for one in training]).astype(np.float64)
    ends = np.repeat(np.cumsum([len(one) for one in training]), [len(one) for one in training])
    candidates = np.arange(0, len(states), -(-len(states) // LARGEST))
    spread = states.std(0)
    spread[spread == 0] = 1.0
    scaled = states[candidates] / spread

    def follow(replay: Replay) -> np.ndarray:
        calls = np.array(list(replay.chunks))
        seen = replay.demonstration.state[calls] / spread
        start = np.array([candidates[((scaled - one) ** 2).sum(1).argmin()] for one in seen])
        call = _call_of_each_step(replay)
        number = np.searchsorted(calls, call)
        ahead = start[number] + np.arange(len(call)) - call
        return actions[np.minimum(ahead, ends[start[number]] - 1)]

    return follow


def _call_of_each_step(replay: Replay) -> np.ndarray:
    """The step of the latest call at each step, int [T]."""
    calls = np.array(list(replay.chunks))
    return calls[np.searchsorted(calls, np.arange(len(replay.action)), side="right") - 1]


def apply(baseline: Baseline, replays: Iterable[Replay]) -> list[np.ndarray]:
    """Returns a baseline's actions on each replay."""
    return [baseline(one) for one in replays]
