"""Conversions between the ways in which data sets write rotations, each [T, d], and products of rotations.

Quaternions are x, y, z, w unless stated otherwise; q and -q are the same rotation.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np

from vla.errors import UserError

ORDERS = ("xyzw", "wxyz")
FIXED_AXES = tuple(map("".join, itertools.permutations("xyz")))
EULER_ORDERS = (*FIXED_AXES, *map(str.upper, FIXED_AXES))
"""The axes that are turned about, in this order: fixed ones in lower case, those of the turning body in upper case."""


def quaternion_to_axis_angle(values: np.ndarray, order: str = "xyzw") -> np.ndarray:
    """Unit quaternions [T, 4] -> rotation vectors [T, 3] (rad), of angle at most pi; `order` is xyzw or wxyz."""
    x = quaternion(values, order)
    # This chooses the one of smaller angle.
    x = np.where(x[:, 3:] < 0, -x, x)
    length = np.linalg.norm(x[:, :3], axis=1, keepdims=True)
    angle = 2 * np.arctan2(length, x[:, 3:])
    return x[:, :3] * np.where(length > 1e-12, angle / np.maximum(length, 1e-12), 2.0)


def euler_to_axis_angle(values: np.ndarray, order: str = "xyz") -> np.ndarray:
    """Euler angles [T, 3] (rad) -> rotation vectors [T, 3]; `order` xyz: roll, pitch, yaw about fixed x, then y, then z."""
    return quaternion_to_axis_angle(euler_to_quaternion(values, order))


def axis_angle_to_euler(values: np.ndarray, order: str = "xyz") -> np.ndarray:
    """Rotation vectors [T, 3] -> Euler angles [T, 3] (rad); `order` xyz: roll, pitch, yaw about fixed x, then y, then z."""
    return quaternion_to_euler(axis_angle_to_quaternion(values), order)


def matrix_rows_to_axis_angle(values: np.ndarray) -> np.ndarray:
    """The first two rows of rotation matrices [T, 6] (Zhou et al. 2019) -> rotation vectors [T, 3]."""
    return quaternion_to_axis_angle(matrix_rows_to_quaternion(values))


def quaternion(values: np.ndarray, order: str = "xyzw") -> np.ndarray:
    """Quaternions [T, 4] in the order xyzw or wxyz -> x, y, z, w."""
    if order not in ORDERS or values.shape[-1] != 4:
        raise UserError(f"{values.shape[-1]} values in the order {order}", "quaternion_to_axis_angle", "4 values, xyzw or wxyz")
    values = np.asarray(values, np.float64)
    return values[:, [1, 2, 3, 0]] if order == "wxyz" else values


def normalised(values: np.ndarray) -> np.ndarray:
    """Vectors [T, d] of length 1 in the same directions; NaN for zeros, which have none."""
    with np.errstate(invalid="ignore"):
        return values / np.linalg.norm(values, axis=1, keepdims=True)


def axis_angle_to_quaternion(values: np.ndarray) -> np.ndarray:
    """Rotation vectors [T, 3] -> unit quaternions [T, 4]."""
    angle = np.linalg.norm(values, axis=1, keepdims=True)
    return np.concatenate([values * np.sinc(angle / (2 * np.pi)) / 2, np.cos(angle / 2)], 1)


def euler_to_quaternion(values: np.ndarray, order: str) -> np.ndarray:
    """Euler angles [T, 3] (rad) -> unit quaternions [T, 4]; `order` is one of EULER_ORDERS."""
    _check_euler(order)
    turns = (axis_angle_to_quaternion(values[:, [i]] * np.eye(3)["xyz".index(axis)]) for i, axis in enumerate(order.lower()))
    # Each turn about a fixed axis comes after the earlier ones; one about an axis of the body, before them.
    return functools.reduce((lambda q, turn: multiply(turn, q)) if order.islower() else multiply, turns)


def quaternion_to_euler(quaternions: np.ndarray, order: str) -> np.ndarray:
    """Unit quaternions [T, 4] -> Euler angles [T, 3] (rad); `order` is one of EULER_ORDERS (Bernardes and Viollet 2022)."""
    _check_euler(order)
    if order.isupper():
        return quaternion_to_euler(quaternions, order[::-1].lower())[:, ::-1]
    i, j, k = ("xyz".index(axis) for axis in order)
    sign = (i - j) * (j - k) * (k - i) / 2
    w, x, y, z = quaternions[:, 3], quaternions[:, i], quaternions[:, j], quaternions[:, k] * sign
    total, apart = np.arctan2(x + z, w - y), np.arctan2(z - x, w + y)
    second = 2 * np.arctan2(np.hypot(w + y, z - x), np.hypot(w - y, x + z)) - np.pi / 2
    return np.stack([_wrapped(total - apart), second, _wrapped((total + apart) * sign)], 1)


def _check_euler(order: str) -> None:
    if order not in EULER_ORDERS:
        raise UserError(f"Euler angles in the order {order!r}", "rotation", f"use one of {', '.join(EULER_ORDERS)}")


def _wrapped(angles: np.ndarray) -> np.ndarray:
    """The same angles (rad) between -pi and pi."""
    return np.arctan2(np.sin(angles), np.cos(angles))


def matrix_rows_to_quaternion(values: np.ndarray) -> np.ndarray:
    """The first two rows of rotation matrices [T, 6] -> unit quaternions [T, 4]. The rows need not be quite orthonormal."""
    a, b = values[:, :3].astype(np.float64), values[:, 3:6].astype(np.float64)
    x = normalised(a)
    y = normalised(b - (x * b).sum(1, keepdims=True) * x)
    m = np.stack([x, y, np.cross(x, y)], 1)
    # There are four formulas for the quaternion. That of the largest component is the most accurate.
    d = np.stack([m[:, 0, 0], m[:, 1, 1], m[:, 2, 2]], 1)
    squares = np.concatenate([1 + 2 * d - d.sum(1, keepdims=True), 1 + d.sum(1, keepdims=True)], 1)
    antisymmetric = np.stack([m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]], 1)
    symmetric = m + m.transpose(0, 2, 1)
    largest, quaternions = squares.argmax(1), np.empty((len(m), 4))
    for t, k in enumerate(largest):
        if k == 3:
            q = np.append(antisymmetric[t], squares[t, 3])
        else:
            q = np.append(symmetric[t, k], antisymmetric[t, k])
            q[k] = squares[t, k]
        quaternions[t] = q / np.linalg.norm(q)
    return quaternions


def quaternion_to_matrix_rows(quaternions: np.ndarray) -> np.ndarray:
    """Unit quaternions [T, 4] -> the first two rows of their matrices [T, 6]."""
    x, y, z, w = quaternions.T
    first = [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)]
    return np.stack([*first, 2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], 1)


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The rotation b followed by a, as quaternions [T, 4]."""
    (ax, ay, az, aw), (bx, by, bz, bw) = a.T, b.T
    return np.stack(
        [
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz,
        ],
        1,
    )


def inverse(quaternions: np.ndarray) -> np.ndarray:
    """The rotations back, as unit quaternions [T, 4]."""
    return quaternions * (-1, -1, -1, 1)
