"""Conversions between the forms of rotations in data sets, each [T, d]. Quaternions are x, y, z, w unless stated otherwise."""

from __future__ import annotations

import numpy as np
from einops import rearrange

from vla.errors import UserError


def quaternion_to_axis_angle(values: np.ndarray, order: str = "xyzw") -> np.ndarray:
    """Unit quaternions [T, 4] -> rotation vectors [T, 3] (rad), of angle at most pi; `order` is xyzw or wxyz."""
    if order not in ("xyzw", "wxyz") or values.shape[-1] != 4:
        raise UserError(f"{values.shape[-1]} values in the order {order}", "quaternion_to_axis_angle", "4 values, xyzw or wxyz")
    x = np.asarray(values, np.float64)
    if order == "wxyz":
        x = x[:, [1, 2, 3, 0]]
    # q and -q are the same rotation. This chooses the one of smaller angle.
    x = np.where(x[:, 3:] < 0, -x, x)
    length = np.linalg.norm(x[:, :3], axis=1, keepdims=True)
    angle = 2 * np.arctan2(length, x[:, 3:])
    return x[:, :3] * np.where(length > 1e-12, angle / np.maximum(length, 1e-12), 2.0)


def axis_angle_to_quaternion(values: np.ndarray) -> np.ndarray:
    """Rotation vectors [T, 3] -> unit quaternions [T, 4]."""
    angle = np.linalg.norm(values, axis=1, keepdims=True)
    return np.concatenate([values * np.sinc(angle / (2 * np.pi)) / 2, np.cos(angle / 2)], 1)


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


def euler_to_axis_angle(values: np.ndarray) -> np.ndarray:
    """Roll, pitch, yaw [T, 3] about fixed x, y and z in this order (rad) -> rotation vectors [T, 3]."""
    x, y, z = (axis_angle_to_quaternion(values[:, [i]] * np.eye(3)[i]) for i in range(3))
    return quaternion_to_axis_angle(multiply(z, multiply(y, x)))


def axis_angle_to_euler(values: np.ndarray) -> np.ndarray:
    """Rotation vectors [T, 3] -> roll, pitch, yaw [T, 3] about fixed x, y and z in this order (rad)."""
    x, y, z, w = axis_angle_to_quaternion(values).T
    roll = np.arctan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    pitch = np.arcsin(np.clip(2 * (w * y - z * x), -1, 1))
    yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return np.stack([roll, pitch, yaw], 1)


def matrix_rows_to_axis_angle(values: np.ndarray) -> np.ndarray:
    """The first two rows of rotation matrices [T, 6] (Zhou et al. 2019) -> rotation vectors [T, 3]."""
    a, b = values[:, :3].astype(np.float64), values[:, 3:6].astype(np.float64)
    x = a / np.linalg.norm(a, axis=1, keepdims=True)
    y = b - (x * b).sum(1, keepdims=True) * x
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    m = np.stack([x, y, np.cross(x, y)], 1)
    # There are four formulas for the quaternion. That of the largest component is the most accurate.
    d = np.stack([m[:, 0, 0], m[:, 1, 1], m[:, 2, 2]], 1)
    squares = np.concatenate([1 + 2 * d - d.sum(1, keepdims=True), 1 + d.sum(1, keepdims=True)], 1)
    antisymmetric = np.stack([m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]], 1)
    symmetric = m + rearrange(m, "t row column -> t column row")
    largest, quaternions = squares.argmax(1), np.empty((len(m), 4))
    for t, k in enumerate(largest):
        if k == 3:
            q = np.append(antisymmetric[t], squares[t, 3])
        else:
            q = np.append(symmetric[t, k], antisymmetric[t, k])
            q[k] = squares[t, k]
        quaternions[t] = q / np.linalg.norm(q)
    return quaternion_to_axis_angle(quaternions)


def compose(rotations: np.ndarray) -> np.ndarray:
    """Consecutive rotations, vectors [T, 3] -> their composition [3]."""
    quaternions = axis_angle_to_quaternion(rotations)
    total = quaternions[:1]
    for following in quaternions[1:]:
        total = multiply(following[None], total)
    return quaternion_to_axis_angle(total)[0]
