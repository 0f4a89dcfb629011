"""Lowers the rate of actions: one action replaces several consecutive ones with the same effect."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from vla.datasets.formats.conventions.forms import FORMS, LISTED, Form, rotations
from vla.datasets.formats.conventions.source_card import Part, SourceCard
from vla.errors import UserError

MOVES = ("position", "rotation", "joint")
"""Roles whose values add up from step to step."""


def first_steps(length: int, given: float, wanted: float, where: str) -> np.ndarray:
    """The first step of each group that becomes one action, for rates per second; UserError if the rate would rise."""
    if wanted > given:
        raise UserError(f"a rate of {wanted:g} actions per second", where, f"give at most {given:g}, the rate of the data")
    starts = np.rint(np.arange(int(np.ceil(length * wanted / given))) * given / wanted).astype(int)
    return starts[starts < length]


def merge(actions: np.ndarray, card: SourceCard) -> np.ndarray:
    """One action [A] with the effect of several consecutive ones [T, A].

    Movements are added, rotations composed and speeds averaged. Of the rest (gripper, absolute poses) the last value is kept.

    Raises:
        UserError: the card does not say how rotations are written, which decides how they compose.
    """
    merged = actions[-1].copy()
    if card.mode == "absolute":
        return merged
    roles, units = _dimensions(card)
    for d, role in enumerate(roles):
        if role in MOVES:
            merged[d] = actions[:, d].mean() if _is_speed(units[d]) else actions[:, d].sum()
    for columns, form, unit in rotations_of(card):
        if form is None:
            what = (
                f"its rotations have {columns.stop - columns.start} values and the form {card.rotation!r}, so they do not compose"
            )
            raise UserError(what, f"the card of {card.title or 'the data'}", f"say `rotation`: one of {LISTED}")
        # A turn about one axis adds up, beyond pi too.
        if form.size > 1:
            merged[columns] = form.compose(actions[:, columns], unit)
    return merged


def rotations_of(card: SourceCard) -> Iterator[tuple[slice, Form | None, float]]:
    """The rotations in the action, as `forms.rotations` gives them."""
    roles, units = _dimensions(card)
    return rotations(card.rotation, [role == "rotation" for role in roles], units)


def _dimensions(card: SourceCard) -> tuple[list[str], list[str]]:
    """The role and the unit of each dimension of the action."""
    parts = [(part.role, unit) for part in card.action for unit in part.all_units]
    return [role for role, _ in parts], [unit for _, unit in parts]


def merged_limits(card: SourceCard, wanted: float) -> tuple[Part, ...]:
    """The action's parts with limits for merged actions, which are larger for values that add up. Rate 0 changes nothing."""
    times = math.ceil(card.control_hz / wanted) if wanted and card.mode == "delta" else 1
    form = FORMS.get(card.rotation)

    def wider(part: Part) -> Part:
        if part.role not in MOVES or any(map(_is_speed, part.all_units)):
            return part
        if part.role == "rotation" and form and not form.angles and times > 1:
            # The values of a larger turn are not a multiple of a smaller one's: their limits come from the statistics.
            return dataclasses.replace(part, low=None, high=None)
        low, high = (None if end is None else end * times for end in (part.low, part.high))
        return dataclasses.replace(part, low=low, high=high)

    return tuple(map(wider, card.action))


def _is_speed(unit: str) -> bool:
    return "/s" in unit
