import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vla.datasets.formats.conventions import operations as ops
from vla.datasets.formats.conventions import rotations as rot
from vla.datasets.formats.conventions.forms import FORMS, radians
from vla.errors import UserError

vectors = st.lists(st.tuples(*[st.floats(-2.5, 2.5)] * 3), min_size=1, max_size=5).map(lambda v: np.array(v, np.float64))


def column(*values):
    return np.array(values, np.float64)[:, None]


def test_relative_gripper_becomes_absolute():
    # RT-1: +1 closes, -1 opens; before the first change the gripper was in the other state.
    assert ops.relative_gripper_to_absolute(column(0, 0, 1, 0, 0, -1, 0)).ravel().tolist() == [1, 1, 0, 0, 0, 1, 1]
    assert ops.relative_gripper_to_absolute(column(0, -1, 0)).ravel().tolist() == [0, 1, 1]
    assert ops.relative_gripper_to_absolute(column(0, 0.05, 0)).ravel().tolist() == [1, 1, 1]


def test_gripper_in_between_becomes_what_follows():
    assert ops.binarize_gripper(column(1, 0.7, 0.3, 0, 0.4, 1)).ravel().tolist() == [1, 0, 0, 0, 1, 1]
    assert ops.binarize_gripper(column(0, 0.5)).ravel().tolist() == [0, 0.5]


def test_difference_is_what_follows():
    differences = ops.difference(column(1, 3, 6))
    assert differences[:-1].ravel().tolist() == [2, 3] and np.isnan(differences[-1]).all()


def test_small_ones():
    assert ops.invert(column(0, 1)).ravel().tolist() == [1, 0] and ops.negate(column(-1, 1)).ravel().tolist() == [1, -1]
    assert ops.clip(column(-1, 2)).ravel().tolist() == [0, 1] and ops.scale(column(2), by=3, offset=1).tolist() == [[7]]
    assert ops.first(np.array([[1, 2]])).tolist() == [[1]]


def turned(values):
    """What a rotation vector does to the axes, by Rodrigues' formula."""
    matrices = []
    for v in values:
        angle = np.linalg.norm(v)
        k = v / angle if angle else v
        cross = np.array([[0, -k[2], k[1]], [k[2], 0, -k[0]], [-k[1], k[0], 0]])
        matrices.append(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)
    return np.array(matrices)


@settings(deadline=None)
@given(vectors)
def test_forms_of_a_rotation_agree(values):
    matrices = turned(values)
    quaternions = rot.axis_angle_to_quaternion(values)
    assert np.allclose(np.linalg.norm(quaternions, axis=1), 1)
    for vectors_back in (
        rot.quaternion_to_axis_angle(quaternions),
        rot.quaternion_to_axis_angle(-quaternions),
        rot.quaternion_to_axis_angle(quaternions[:, [3, 0, 1, 2]], order="wxyz"),
        rot.matrix_rows_to_axis_angle(matrices[:, :2].reshape(-1, 6)),
    ):
        assert np.allclose(turned(vectors_back), matrices, atol=1e-7)
        assert (np.linalg.norm(vectors_back, axis=1) <= np.pi + 1e-9).all()


@settings(deadline=None)
@given(st.tuples(st.floats(-3, 3), st.floats(-1.5, 1.5), st.floats(-3, 3)))
def test_euler_angles_are_about_fixed_axes(angles):
    x, y, z = (turned(np.eye(3)[i : i + 1] * angles[i])[0] for i in range(3))
    vector = rot.euler_to_axis_angle(np.array([angles]))
    assert np.allclose(turned(vector)[0], z @ y @ x, atol=1e-7)
    assert np.allclose(rot.axis_angle_to_euler(vector), [angles], atol=1e-6)


@settings(deadline=None)
@given(vectors)
def test_composition_is_one_after_the_other(values):
    expected = np.eye(3)
    for matrix in turned(values):
        expected = matrix @ expected
    assert np.allclose(turned(FORMS["axis_angle"].compose(values)[None])[0], expected, atol=1e-7)


def written(rotation, form):
    """SciPy's rotation in a form of ours."""
    if form == "axis_angle":
        return rotation.as_rotvec()
    if form.startswith("euler"):
        return rotation.as_euler(form.removeprefix("euler_"))
    if form.startswith("quaternion"):
        return rotation.as_quat(canonical=True)[:, [3, 0, 1, 2] if form.endswith("wxyz") else [0, 1, 2, 3]]
    rows = slice(None), slice(0, 2)
    matrices = rotation.as_matrix()
    return (matrices if form == "matrix_rows" else matrices.transpose(0, 2, 1))[rows].reshape(-1, 6)


@pytest.mark.parametrize("form", [name for name in FORMS if name != "angle"])
def test_every_form_of_a_rotation_differs_and_composes_as_rotations_do(form):
    """Against SciPy, with turns that pass pi and quaternions of either sign."""
    path = Rotation.from_rotvec(np.random.default_rng(0).normal(size=(30, 3)) * 3)
    values = written(path, form)
    if form.startswith("quaternion"):
        values[::2] *= -1
    turns = path[1:] * path[:-1].inv()
    movements = ops.difference(values, rotation=form)
    assert movements.shape == values.shape and np.isnan(movements[-1]).all()
    assert np.allclose(movements[:-1], written(turns, form), atol=1e-6)
    assert np.allclose(FORMS[form].angles_between(values), turns.magnitude(), atol=1e-6)
    assert np.allclose(FORMS[form].compose(movements[:-1]), written(path[-1:] * path[:1].inv(), form)[0], atol=1e-6)


@pytest.mark.parametrize("form", [name for name in FORMS if name.startswith("euler") or name in ("axis_angle", "angle")])
@pytest.mark.parametrize("unit", ["rad", "deg", "0.5 rad"])
def test_a_small_turn_past_pi_stays_small(form, unit):
    size = FORMS[form].size
    angles = np.zeros((3, size))
    angles[:, -1] = np.array([np.pi - 0.025, -np.pi + 0.025, np.pi - 0.025]) / radians(unit)
    expected = np.zeros((2, size))
    expected[:, -1] = np.array([0.05, -0.05]) / radians(unit)
    assert np.allclose(ops.difference(angles, rotation=form, unit=radians(unit))[:-1], expected, atol=1e-9 / radians(unit))


def test_the_rotations_of_two_arms_differ_each():
    one = np.array([[0, 0, 3.0], [0, 0, -3.0]])
    both = np.concatenate([one, -one], 1)
    assert np.allclose(ops.difference(both, rotation="axis_angle")[0], [0, 0, 2 * np.pi - 6, 0, 0, 6 - 2 * np.pi])
    with pytest.raises(UserError, match="pick the 3"):
        ops.difference(both[:, :4], rotation="axis_angle")


def test_a_quaternion_of_zeros_has_no_difference():
    values = np.array([[0, 0, 0, 1.0], [0, 0, 0, 0], [0, 0, 0, 1]])
    assert np.isnan(ops.difference(values, rotation="quaternion_xyzw")).all()


@pytest.mark.parametrize("order", rot.EULER_ORDERS)
def test_euler_angles_of_every_order(order):
    rotations = Rotation.from_rotvec(np.random.default_rng(1).normal(size=(30, 3)) * 2)
    angles, vectors = rotations.as_euler(order), rotations.as_rotvec()
    assert np.allclose(rot.axis_angle_to_euler(vectors, order), angles, atol=1e-7)
    assert np.allclose(Rotation.from_rotvec(rot.euler_to_axis_angle(angles, order)).as_matrix(), rotations.as_matrix(), atol=1e-7)


def test_euler_angles_at_a_right_angle():
    """Pitch is pi / 2: many angles are the same rotation."""
    angles = np.array([[0.3, np.pi / 2, -0.8], [1.0, -np.pi / 2, 0.2]])
    back = rot.axis_angle_to_euler(rot.euler_to_axis_angle(angles))
    assert np.allclose(Rotation.from_euler("xyz", back).as_matrix(), Rotation.from_euler("xyz", angles).as_matrix(), atol=1e-7)


@pytest.mark.parametrize("name", ops.OPERATIONS)
def test_every_operation_is_described_and_keeps_the_steps(name):
    assert ops.OPERATIONS[name].__doc__
    width = {"quaternion_to_axis_angle": 4, "matrix_rows_to_axis_angle": 6}.get(name, 3)
    values = np.random.default_rng(0).uniform(0.1, 1, (5, width))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    assert len(ops.OPERATIONS[name](values)) == 5
