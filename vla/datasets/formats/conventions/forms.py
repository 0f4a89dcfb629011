"""The forms in which a rotation is written, by name, and what is computed with rotations of any form."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from vla.datasets.formats.conventions.rotations import (
    EULER_ORDERS,
    ORDERS,
    axis_angle_to_quaternion,
    euler_to_quaternion,
    inverse,
    matrix_rows_to_quaternion,
    multiply,
    normalised,
    quaternion,
    quaternion_to_axis_angle,
    quaternion_to_euler,
    quaternion_to_matrix_rows,
)

NAME = re.compile(r"[dv]?(r[xyz]|q[wxyz]|roll|pitch|yaw)")
"""Names of dimensions that belong to a rotation if nothing else is known of them."""
RADIANS, DEGREES = ("rad", "radian", "radians"), ("deg", "degree", "degrees", "°")


@dataclasses.dataclass(frozen=True)
class Form:
    """How a rotation is written.

    Attributes:
        size: number of values.
        to_quaternions, from_quaternions: conversions of values [T, size] to unit quaternions [T, 4] and back.
        angles: whether the values are angles. They then have a unit, and pass from pi to -pi.
    """

    size: int
    to_quaternions: Callable[[np.ndarray], np.ndarray]
    from_quaternions: Callable[[np.ndarray], np.ndarray]
    angles: bool = False

    def difference(self, values: np.ndarray, unit: float = 1.0) -> np.ndarray:
        """The turns [T - 1, size] about fixed axes that lead from each rotation to the next; `unit` is an angle's, in radians."""
        q = self._quaternions(values, unit)
        return self._values(multiply(q[1:], inverse(q[:-1])), unit)

    def angles_between(self, values: np.ndarray, unit: float = 1.0) -> np.ndarray:
        """The angles [T - 1] of the turns that lead from each rotation [T, size] to the next, in `unit`."""
        q = self._quaternions(values, unit)
        angles = np.linalg.norm(quaternion_to_axis_angle(multiply(q[1:], inverse(q[:-1]))), axis=1)
        return angles / unit

    def compose(self, turns: np.ndarray, unit: float = 1.0) -> np.ndarray:
        """The turn [size] that does what consecutive turns [T, size] about fixed axes do."""
        q = self._quaternions(turns, unit)
        total = functools.reduce(lambda earlier, later: multiply(later, earlier), np.split(q, len(q)))
        return self._values(total, unit)[0]

    def mean(self, values: np.ndarray, weights: np.ndarray, unit: float = 1.0) -> np.ndarray:
        """The weighted mean [size] of rotations [T, size], each less than half a turn from the last."""
        q = self._quaternions(values, unit)
        q = np.where(q @ q[-1][:, None] < 0, -q, q)
        return self._values(normalised((weights[:, None] * q).sum(0, keepdims=True)), unit)[0]

    def _quaternions(self, values: np.ndarray, unit: float) -> np.ndarray:
        return self.to_quaternions(values * unit if self.angles else values)

    def _values(self, quaternions: np.ndarray, unit: float) -> np.ndarray:
        values = self.from_quaternions(quaternions)
        return values / unit if self.angles else values


def _quaternion_form(order: str) -> Form:
    def back(quaternions: np.ndarray) -> np.ndarray:
        q = np.where(quaternions[:, 3:] < 0, -quaternions, quaternions)
        return q[:, [3, 0, 1, 2]] if order == "wxyz" else q

    return Form(4, lambda values: normalised(quaternion(values, order)), back)


def _euler_form(order: str) -> Form:
    return Form(3, lambda v: euler_to_quaternion(v, order), lambda q: quaternion_to_euler(q, order), angles=True)


FORMS: dict[str, Form] = {
    "axis_angle": Form(3, axis_angle_to_quaternion, quaternion_to_axis_angle, angles=True),
    **{f"euler_{order}": _euler_form(order) for order in EULER_ORDERS},
    **{f"quaternion_{order}": _quaternion_form(order) for order in ORDERS},
    "matrix_rows": Form(6, matrix_rows_to_quaternion, quaternion_to_matrix_rows),
    # The first two columns of a matrix are the first two rows of the one that turns back.
    "matrix_columns": Form(6, lambda v: inverse(matrix_rows_to_quaternion(v)), lambda q: quaternion_to_matrix_rows(inverse(q))),
    "angle": Form(
        1, lambda v: axis_angle_to_quaternion(v * np.eye(3)[2:]), lambda q: quaternion_to_axis_angle(q)[:, 2:], angles=True
    ),
}
"""Name, as in a card's `rotation` -> form. An angle is one about an axis that stays; Euler angles name their axes."""
LISTED = (
    ", ".join(name for name in FORMS if not name.startswith("euler") or name == "euler_xyz") + " (or euler_ in another order)"
)
"""The forms, for messages."""


def rotations(form: str, turning: Sequence[bool], units: Sequence[str]) -> Iterator[tuple[slice, Form | None, float]]:
    """The dimensions of each rotation, its form (None if that is unknown), and the unit of its angles in radians.

    Args:
        form: the name of the form of those with three or more values. One or two values side by side are angles.
        turning: which dimensions belong to rotations.
        units: the units of all dimensions. Rotation speeds are no rotations.
    """
    turns = [turn and "/s" not in unit for turn, unit in zip(turning, units, strict=True)]
    for turn, run in itertools.groupby(range(len(turns)), turns.__getitem__):
        dimensions = list(run)
        known = FORMS.get(form) if len(dimensions) > 2 else FORMS["angle"]
        if turn and (known is None or len(dimensions) % known.size):
            yield slice(dimensions[0], dimensions[-1] + 1), None, 1.0
        elif turn and known:
            yield from ((slice(d, d + known.size), known, radians(units[d])) for d in dimensions[:: known.size])


def radians(unit: str) -> float:
    """The size of a unit in radians, e.g. of "0.5 rad" or "deg"; 1 for other units."""
    return _radians(unit) or 1.0


def is_angle(unit: str) -> bool:
    """Whether a unit is known to be one of angles."""
    return _radians(unit) is not None


def _radians(unit: str) -> float | None:
    number, _, name = unit.rpartition(" ")
    try:
        return float(number or 1) * {**dict.fromkeys(DEGREES, math.pi / 180), **dict.fromkeys(RADIANS, 1.0)}[name]
    except (KeyError, ValueError):
        return None
