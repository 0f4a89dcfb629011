"""Fewer actions per second do what all of them did."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vla.datasets.formats.conventions.rate import first_steps, merge, merged_limits
from vla.datasets.formats.conventions.source_card import Part, SourceCard, load_source_card
from vla.errors import UserError

TURNS = np.array([[0.5, 0.1, -0.3], [0.2, -0.7, 0.4], [-0.1, 0.3, 0.9]])


def test_the_steps_that_begin_a_group():
    assert first_steps(7, 10, 5, "e").tolist() == [0, 2, 4, 6]
    assert first_steps(8, 20, 8, "e").tolist() == [0, 2, 5]
    with pytest.raises(UserError, match="at most 10, the rate of the data"):
        first_steps(7, 10, 20, "e")


@pytest.mark.parametrize("rotation", ["axis_angle", "euler_xyz", "euler_zyx", "euler_ZYX"])
@pytest.mark.parametrize(("unit", "radians"), [("rad", 1.0), ("0.5 rad", 0.5), ("deg", np.pi / 180)])
@pytest.mark.parametrize("apart", [False, True])
def test_turns_are_composed_in_their_own_form_and_unit(rotation, unit, radians, apart):
    """Also where each dimension is a part of its own, as in our shards; against SciPy's rotations."""
    names = ("drx", "dry", "drz")
    parts = (
        tuple(Part("a", (n,), (unit,), role="rotation") for n in names)
        if apart
        else (Part("a", names, (unit,), role="rotation"),)
    )
    card = SourceCard(action=parts, rotation=rotation)
    order = rotation.removeprefix("euler_")
    rotations = Rotation.from_rotvec if rotation == "axis_angle" else lambda v: Rotation.from_euler(order, v)
    whole = rotations(TURNS[2]) * rotations(TURNS[1]) * rotations(TURNS[0])
    merged = rotations(merge(TURNS / radians, card) * radians)
    assert (merged * whole.inv()).magnitude() < 1e-6


@pytest.mark.parametrize("order", ["xyzw", "wxyz"])
def test_quaternions_compose_and_have_the_limits_of_the_data(order):
    turns = Rotation.from_rotvec(TURNS)
    columns = [3, 0, 1, 2] if order == "wxyz" else [0, 1, 2, 3]
    part = Part("a", ("qa", "qb", "qc", "qd"), role="rotation", low=-0.1, high=1)
    card = SourceCard(action=(part,), rotation=f"quaternion_{order}", control_hz=10)
    merged = merge(turns.as_quat()[:, columns], card)
    assert np.allclose(merged, (turns[2] * turns[1] * turns[0]).as_quat(canonical=True)[columns])
    (limited,) = merged_limits(card, 5)
    assert limited.low is None and limited.high is None and merged_limits(card, 0) == (part,)


@pytest.mark.parametrize(("rotation", "size"), [("not said", 3), ("quaternion", 4), ("quaternion_xyzw", 3), ("axis_angle", 4)])
def test_rotations_of_an_unknown_form_are_not_added(rotation, size):
    card = SourceCard("mine", action=(Part("a", tuple("abcd")[:size], role="rotation"),), rotation=rotation)
    with pytest.raises(UserError, match=f"(?s)the card of mine: .*{rotation}.*one of axis_angle, euler_xyz"):
        merge(np.zeros((2, size)), card)


def test_one_angle_adds_up():
    card = SourceCard(action=(Part("a", ("dyaw",), role="rotation"),))
    assert merge(np.full((3, 1), 0.2), card) == pytest.approx(0.6)


def test_speeds_are_averaged_and_the_rest_stays():
    card = load_source_card("droid")
    actions = np.arange(14.0).reshape(2, 7)
    assert merge(actions, card).tolist() == [*actions.mean(0)[:6], 13]
    absolute = dataclasses.replace(load_source_card("libero"), mode="absolute")
    assert merge(actions, absolute).tolist() == actions[-1].tolist() and merged_limits(absolute, 5) == absolute.action


def test_limits_grow_with_what_is_added_up():
    card = load_source_card("libero")
    assert [(p.low, p.high) for p in merged_limits(card, 10)] == [(-2, 2), (-2, 2), (-1, 1)]
    assert [(p.low, p.high) for p in merged_limits(card, 8)] == [(-3, 3), (-3, 3), (-1, 1)]
    assert merged_limits(card, 0) == card.action
