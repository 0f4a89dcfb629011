"""Demonstrations of robosuite's own tasks, made in the worker processes of `vla collect`."""

from __future__ import annotations

import numpy as np

from vla.datasets.shards import encode_member
from vla.sim.collect import Attempt, write_demonstrations
from vla.sim.collect_options import Collect, Report
from vla.sim.robosuite.embodiment import embodiment
from vla.sim.robosuite.environment import Environment
from vla.sim.robosuite.experts import expert_action
from vla.sim.robosuite.experts.hand import STEP

CONVENTIONS = {
    "pictures": "upright RGB, taken before the action",
    "state": "robosuite's eef_pos (m, world), eef_quat as a rotation vector, gripper_qpos (m)",
    "actions": "robosuite's own, -1 to 1; the expert's clean label",
}
DEMONSTRATIONS = 1_000_000
"""Numbers of demonstrations' episodes start here: no evaluation has them."""

_environment: Environment
_options: Collect


def collect(options: Collect, report: Report) -> dict[str, int]:
    """Collects demonstrations of a task; see `write_demonstrations`."""
    return write_demonstrations(options, _attempts, _start, options.task, CONVENTIONS, report)


def _start(options: Collect) -> None:
    """What each process does first."""
    global _environment, _options
    _environment, _options = Environment(options.task), options


def _attempts(index: int) -> list[Attempt]:
    """Episode `index`."""
    rng = np.random.default_rng((_options.seed, 6, index))
    _environment.reset((DEMONSTRATIONS + index, _options.seed))
    noisy, horizon = rng.random() >= _options.clean, 2 * _environment.task.horizon
    steps, actions, states, segment, ended = [], [], [], 0, 0
    # Some steps after the end show what it looks like.
    while ended < 3 and len(steps) < horizon:
        if noisy and not _environment.holds() and rng.random() < _options.excursions / 2:
            _wander(rng)
            segment += bool(steps)
        action = expert_action(_environment)
        state, success = _environment.state().astype(np.float32), _environment.success()
        ended += success
        images = {f"{camera}.jpg": image for camera, image in _environment.images().items()}
        members = {**images, "action.npy": action.astype(np.float32), "state.npy": state}
        steps.append(
            (
                {name: encode_member(name, value) for name, value in members.items()},
                {"step": len(steps), "segment": segment, "terminate": int(success)},
            )
        )
        actions.append(action.astype(np.float32))
        states.append(state)
        _environment.step(action + noisy * _disturbance(rng, len(action)))
    episode = {
        "length": len(steps),
        "instruction": _environment.instruction,
        "embodiment": embodiment(_environment.task.name)[0],
        "target": "",
    }
    described = [(members, {**step, **episode}) for members, step in steps]
    return [Attempt("" if ended == 3 else "timeout", described, np.array(actions), np.array(states))]


def _disturbance(rng: np.random.Generator, size: int) -> np.ndarray:
    """Of an action: the gripper's position, half as much as on the tabletop, which has half as many steps a second."""
    return np.concatenate([rng.normal(0, _options.noise / 2 / STEP, 3), np.zeros(size - 3)])


def _wander(rng: np.random.Generator) -> None:
    """Goes somewhere for a while, unrecorded; what follows shows the way back."""
    away = np.array([*rng.uniform(-0.8, 0.8, 2), rng.uniform(-0.2, 0.8), 0, 0, rng.uniform(-0.3, 0.3), -1.0])
    for _ in range(int(rng.integers(2, 12))):
        _environment.step(away)
