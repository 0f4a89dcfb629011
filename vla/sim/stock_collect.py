"""Demonstrations of robosuite's own tasks, in the worker processes of `vla collect`."""

from __future__ import annotations

from typing import Any

import numpy as np

from vla.datasets.shards import encode_member
from vla.sim.collect_options import Collect
from vla.sim.embodiment import robot
from vla.sim.experts.stock import stock_action
from vla.sim.experts.stock_hand import STEP
from vla.sim.stock import Stock

DEMONSTRATIONS = 1_000_000
"""Numbers of demonstrations' episodes start here: no evaluation has them."""

_stock: Stock
_options: Collect


def start_stock(options: Collect) -> None:
    """What each process does first."""
    global _stock, _options
    _stock, _options = Stock(options.task), options


def stock_episodes(index: int) -> list[tuple[str, list[dict[str, Any]], np.ndarray, np.ndarray]]:
    """Episode `index`, in a list of one, as `vla.sim.collect` has them of its scenes.

    Returns:
        the failure ("" for success), encoded steps without their episode number, actions and states.
    """
    rng = np.random.default_rng((_options.seed, 6, index))
    _stock.reset((DEMONSTRATIONS + index, _options.seed))
    noisy, horizon, name = rng.random() >= _options.clean, 2 * _stock.task.horizon, robot(_stock.task.name)[0]
    steps, actions, states, segment, ended = [], [], [], 0, 0
    # Some steps after the end show what it looks like.
    while ended < 3 and len(steps) < horizon:
        if noisy and not _stock.holds() and rng.random() < _options.excursions / 2:
            _wander(rng)
            segment += bool(steps)
        action, state, success = stock_action(_stock), _stock.state().astype(np.float32), _stock.success()
        ended += success
        pictures = {f"{camera}.jpg": picture for camera, picture in _stock.images().items()}
        members = {**pictures, "action.npy": action.astype(np.float32), "state.npy": state}
        step: dict[str, Any] = {name: encode_member(name, value) for name, value in members.items()}
        step["json"] = {"step": len(steps), "segment": segment, "terminate": int(success)}
        steps.append(step)
        actions.append(action.astype(np.float32))
        states.append(state)
        _stock.step(action + noisy * _disturbance(rng, len(action)))
    about = {"length": len(steps), "instruction": _stock.instruction, "embodiment": name, "target": ""}
    for step in steps:
        step["json"] |= about
    return [("" if ended == 3 else "timeout", steps, np.array(actions), np.array(states))]


def _disturbance(rng: np.random.Generator, size: int) -> np.ndarray:
    """Of an action: the gripper's place, half as much as on the tabletop, which has half as many steps a second."""
    return np.concatenate([rng.normal(0, _options.noise / 2 / STEP, 3), np.zeros(size - 3)])


def _wander(rng: np.random.Generator) -> None:
    """Goes somewhere for a while, unrecorded; what follows shows the way back."""
    away = np.array([*rng.uniform(-0.8, 0.8, 2), rng.uniform(-0.2, 0.8), 0, 0, rng.uniform(-0.3, 0.3), -1.0])
    for _ in range(int(rng.integers(2, 12))):
        _stock.step(away)
