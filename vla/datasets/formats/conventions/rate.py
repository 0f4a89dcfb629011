"""Lowers the rate of actions: one action replaces several consecutive ones with the same effect."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from vla.datasets.formats.conventions.rotations import axis_angle_to_euler, compose, euler_to_axis_angle
from vla.datasets.formats.conventions.source_card import Part, SourceCard
from vla.errors import UserError

MOVES = ("position", "rotation", "joint")
"""Roles whose values add up from step to step."""
TURNS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "axis_angle": (np.asarray, np.asarray),
    "euler_xyz": (euler_to_axis_angle, axis_angle_to_euler),
}
"""Form of a rotation -> its conversions to rotation vectors [T, 3] (rad) and back."""


def first_steps(length: int, given: float, wanted: float, where: str) -> np.ndarray:
    """The first step of each group that becomes one action, for rates per second; UserError if the rate would rise."""
    if wanted > given:
        raise UserError(f"a rate of {wanted:g} actions per second", where, f"give at most {given:g}, the rate of the data")
    starts = np.rint(np.arange(int(np.ceil(length * wanted / given))) * given / wanted).astype(int)
    return starts[starts < length]


def merge(actions: np.ndarray, card: SourceCard) -> np.ndarray:
    """One action [A] with the effect of several consecutive ones [T, A].

    Movements are added, rotations composed and speeds averaged. Of the rest (gripper, absolute poses) the last value is kept.
    """
    merged, d = actions[-1].copy(), 0
    if card.mode == "absolute":
        return merged
    roles, units = [part.role for part in card.action for _ in part.names], [u for part in card.action for u in part.all_units]
    while d < len(roles):
        if card.rotation in TURNS and roles[d : d + 3] == ["rotation"] * 3 and not _is_speed(units[d]):
            rotation, radians = slice(d, d + 3), _radians(units[d])
            to_vectors, from_vectors = TURNS[card.rotation]
            merged[rotation] = from_vectors(compose(to_vectors(actions[:, rotation] * radians))[None])[0] / radians
            d += 3
            continue
        if roles[d] in MOVES:
            merged[d] = actions[:, d].mean() if _is_speed(units[d]) else actions[:, d].sum()
        d += 1
    return merged


def merged_limits(card: SourceCard, wanted: float) -> tuple[Part, ...]:
    """The action's parts with limits for merged actions, which are larger for values that add up. Rate 0 changes nothing."""
    times = math.ceil(card.control_hz / wanted) if wanted and card.mode == "delta" else 1

    def wider(part: Part) -> Part:
        if part.role not in MOVES or any(map(_is_speed, part.all_units)):
            return part
        low, high = (None if end is None else end * times for end in (part.low, part.high))
        return dataclasses.replace(part, low=low, high=high)

    return tuple(map(wider, card.action))


def _is_speed(unit: str) -> bool:
    return "/s" in unit


def _radians(unit: str) -> float:
    """The size of a unit in radians, e.g. of "0.5 rad" or "deg"; 1 for other units."""
    number, _, name = unit.rpartition(" ")
    try:
        return float(number or 1) * (math.pi / 180 if name == "deg" else 1)
    except ValueError:
        return 1.0
