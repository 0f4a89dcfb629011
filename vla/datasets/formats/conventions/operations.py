"""The closed set of operations that a card may name: what a data set's own conventions need to become the ones it declares.

Each takes an episode's values [T, d] and gives [T, e]. Gripper conventions after Open X-Embodiment: 0 is closed, 1 open.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from vla.datasets.formats.conventions.rotations import (
    axis_angle_to_euler,
    euler_to_axis_angle,
    matrix_rows_to_axis_angle,
    quaternion_to_axis_angle,
)
from vla.errors import UserError


def relative_gripper_to_absolute(values: np.ndarray, threshold: float = 0.1) -> np.ndarray:
    """+1 closing, -1 opening, 0 no change -> 0 closed, 1 open at every step (RT-1, Kuka and others).

    Before the first change the gripper is in the state that this change ends; without any change it is open.
    """
    change = np.where(values > threshold, -1.0, np.where(values < -threshold, 1.0, 0.0))
    for column in change.T:
        moved = np.flatnonzero(column)
        state = -column[moved[0]] if len(moved) else 1.0
        for t, now in enumerate(column):
            state = column[t] = now or state
    return change / 2 + 0.5


def binarize_gripper(values: np.ndarray, low: float = 0.05, high: float = 0.95) -> np.ndarray:
    """0 to 1 -> 0 or 1: what is in between becomes what is reached after it (Bridge V2); at the end the last value stays."""
    answer = np.array(values, np.float64)
    for column, given in zip(answer.T, np.asarray(values).T, strict=True):
        state = given[-1] if len(given) else 0.0
        for t in reversed(range(len(given))):
            state = column[t] = float(given[t] > high) if given[t] > high or given[t] < low else state
    return answer


def invert(values: np.ndarray) -> np.ndarray:
    """x -> 1 - x: open and closed change places on a scale from 0 to 1."""
    return 1 - values


def negate(values: np.ndarray) -> np.ndarray:
    """x -> -x: open and closed change places on a scale from -1 to 1."""
    return -values


def clip(values: np.ndarray, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Values outside the limits are set to them."""
    return np.clip(values, low, high)


def scale(values: np.ndarray, by: float = 1.0, offset: float = 0.0) -> np.ndarray:
    """x -> by * x + offset: another unit."""
    return by * values + offset


def difference(values: np.ndarray) -> np.ndarray:
    """The step to the next value, for actions that are the movement that followed; the last row has none (NaN): `drop_last`."""
    return np.append(np.diff(values, axis=0), np.full((min(len(values), 1), values.shape[1]), np.nan), 0)


def first(values: np.ndarray) -> np.ndarray:
    """The first dimension alone."""
    return values[:, :1]


OPERATIONS: dict[str, Callable[..., np.ndarray]] = {
    function.__name__: function
    for function in (
        relative_gripper_to_absolute,
        binarize_gripper,
        invert,
        negate,
        clip,
        scale,
        difference,
        first,
        quaternion_to_axis_angle,
        euler_to_axis_angle,
        axis_angle_to_euler,
        matrix_rows_to_axis_angle,
    )
}
STEPS = ("drop_first", "drop_last")
"""Operations on whole episodes."""


def check(name: str, arguments: dict[str, Any], where: str) -> None:
    """UserError for an operation that does not exist, or arguments that it does not take."""
    if name not in OPERATIONS:
        raise UserError(f"unknown operation {name!r}", where, f"one of {', '.join(OPERATIONS)}")
    known = {p.name: type(p.default) for p in list(inspect.signature(OPERATIONS[name]).parameters.values())[1:]}
    fits = {str: str, float: int | float}
    if set(arguments) - set(known) or not all(isinstance(v, fits[known[k]]) for k, v in arguments.items()):
        raise UserError(f"{name} takes {', '.join(known) or 'nothing'}, not {arguments}", where)
