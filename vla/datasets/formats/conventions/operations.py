"""The operations that a card may name to convert a data set's values to the conventions that the card declares.

Each takes an episode's values [T, d] and returns [T, e]. Gripper conventions follow Open X-Embodiment: 0 is closed, 1 open.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from vla.datasets.formats.conventions.forms import FORMS
from vla.datasets.formats.conventions.rotations import (
    EULER_ORDERS,
    ORDERS,
    axis_angle_to_euler,
    euler_to_axis_angle,
    matrix_rows_to_axis_angle,
    quaternion_to_axis_angle,
)
from vla.errors import UserError


def relative_gripper_to_absolute(values: np.ndarray, threshold: float = 0.1) -> np.ndarray:
    """+1 closing, -1 opening, 0 no change -> 0 closed, 1 open at every step (RT-1, Kuka and others).

    Before the first change the gripper is in the opposite of the state after it. Without any change it is open.
    """
    change = np.where(values > threshold, -1.0, np.where(values < -threshold, 1.0, 0.0))
    for column in change.T:
        changed = np.flatnonzero(column)
        state = -column[changed[0]] if len(changed) else 1.0
        for t, current in enumerate(column):
            state = column[t] = current or state
    return change / 2 + 0.5


def binarize_gripper(values: np.ndarray, low: float = 0.05, high: float = 0.95) -> np.ndarray:
    """0 to 1 -> 0 or 1. A value in between becomes the next one that is not (Bridge V2), or the last value if none follows."""
    binary = np.array(values, np.float64)
    for column, original in zip(binary.T, np.asarray(values).T, strict=True):
        state = original[-1] if len(original) else 0.0
        for t in reversed(range(len(original))):
            state = column[t] = float(original[t] > high) if original[t] > high or original[t] < low else state
    return binary


def invert(values: np.ndarray) -> np.ndarray:
    """x -> 1 - x: swaps open and closed on a scale from 0 to 1."""
    return 1 - values


def negate(values: np.ndarray) -> np.ndarray:
    """x -> -x: swaps open and closed on a scale from -1 to 1."""
    return -values


def clip(values: np.ndarray, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Clips values to the limits."""
    return np.clip(values, low, high)


def scale(values: np.ndarray, by: float = 1.0, offset: float = 0.0) -> np.ndarray:
    """x -> by * x + offset: converts units."""
    return by * values + offset


def difference(values: np.ndarray, rotation: str = "", unit: float = 1.0) -> np.ndarray:
    """The movement to the next value, for actions that are movements; the last row is NaN, so `drop_last` is needed.

    Rotations do not differ number by number: an angle passes from pi to -pi. Their movements are turns about fixed axes.

    Args:
        rotation: the form of rotations, one of `vla.datasets.formats.conventions.forms.FORMS`; "" is none.
        unit: the unit of their angles, in radians.
    """
    if not rotation:
        movements = np.diff(values, axis=0)
    else:
        form, width = FORMS[rotation], values.shape[1]
        if width % form.size:
            raise UserError(f"{width} values of the form {rotation}", "difference", f"pick the {form.size} of each rotation")
        rotations = np.split(values, width // form.size, 1)
        movements = np.concatenate([form.difference(each, unit) for each in rotations], 1)
    return np.append(movements, np.full((min(len(values), 1), values.shape[1]), np.nan), 0)


def first(values: np.ndarray) -> np.ndarray:
    """Keeps the first dimension."""
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
CHOICES = {
    ("difference", "rotation"): tuple(FORMS),
    ("quaternion_to_axis_angle", "order"): ORDERS,
    ("euler_to_axis_angle", "order"): EULER_ORDERS,
    ("axis_angle_to_euler", "order"): EULER_ORDERS,
}
"""Operation and argument -> the values that it takes."""


def check(name: str, arguments: dict[str, Any], where: str) -> None:
    """Checks an operation of a card.

    Raises:
        UserError: the operation does not exist, or does not take the arguments.
    """
    if name not in OPERATIONS:
        raise UserError(f"unknown operation {name!r}", where, f"use one of {', '.join(OPERATIONS)}")
    types = {p.name: type(p.default) for p in list(inspect.signature(OPERATIONS[name]).parameters.values())[1:]}
    accepted = {str: str, float: int | float}
    if set(arguments) - set(types) or not all(isinstance(v, accepted[types[k]]) for k, v in arguments.items()):
        raise UserError(f"{name} takes {', '.join(types) or 'nothing'}, not {arguments}", where)
    for key, value in arguments.items():
        if value not in (choices := CHOICES.get((name, key), (value,))):
            raise UserError(f"{name}: {key} is {value!r}", where, f"use one of {', '.join(choices)}")
