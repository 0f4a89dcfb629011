"""From more actions per second to fewer: one action that does what several in a row did."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from vla.datasets.formats.conventions.rotations import axis_angle_to_euler, compose, euler_to_axis_angle
from vla.datasets.formats.conventions.source_card import Part, SourceCard
from vla.errors import UserError

MOVES = ("position", "rotation", "joint")
"""Roles of what adds up from step to step."""
TURNS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "axis_angle": (np.asarray, np.asarray),
    "euler_xyz": (euler_to_axis_angle, axis_angle_to_euler),
}
"""Rotation -> to rotation vectors [T, 3] (rad), and back."""


def first_steps(length: int, given: float, wanted: float, where: str) -> np.ndarray:
    """The first of the steps that become one; UserError for a higher rate than is given (both per second)."""
    if wanted > given:
        raise UserError(f"{wanted:g} actions per second asked for", where, f"the data has {given:g}, and none are made up")
    starts = np.rint(np.arange(int(np.ceil(length * wanted / given))) * given / wanted).astype(int)
    return starts[starts < length]


def merge(actions: np.ndarray, card: SourceCard) -> np.ndarray:
    """One action [A] for several in a row [T, A]: movements are added up, rotations composed, speeds averaged, and of all else
    (the gripper, absolute poses) the last is kept."""
    merged, at = actions[-1].copy(), 0
    if card.mode == "absolute":
        return merged
    roles, units = [part.role for part in card.action for _ in part.names], [u for part in card.action for u in part.all_units]
    while at < len(roles):
        if card.rotation in TURNS and roles[at : at + 3] == ["rotation"] * 3 and not _speed(units[at]):
            turn, radians = slice(at, at + 3), _radians(units[at])
            there, back = TURNS[card.rotation]
            merged[turn] = back(compose(there(actions[:, turn] * radians))[None])[0] / radians
            at += 3
            continue
        if roles[at] in MOVES:
            merged[at] = actions[:, at].mean() if _speed(units[at]) else actions[:, at].sum()
        at += 1
    return merged


def merged_limits(card: SourceCard, wanted: float) -> tuple[Part, ...]:
    """The action's parts with limits that hold after `merge`: what is added up reaches further. A rate of 0 changes nothing."""
    times = math.ceil(card.control_hz / wanted) if wanted and card.mode == "delta" else 1

    def wider(part: Part) -> Part:
        if part.role not in MOVES or any(map(_speed, part.all_units)):
            return part
        low, high = (None if end is None else end * times for end in (part.low, part.high))
        return dataclasses.replace(part, low=low, high=high)

    return tuple(map(wider, card.action))


def _speed(unit: str) -> bool:
    return "/s" in unit


def _radians(unit: str) -> float:
    """How many radians a unit is: "0.5 rad", "deg"; 1 where it does not say."""
    number, _, name = unit.rpartition(" ")
    try:
        return float(number or 1) * (math.pi / 180 if name == "deg" else 1)
    except ValueError:
        return 1.0
