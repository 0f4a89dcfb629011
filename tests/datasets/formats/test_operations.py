import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.datasets.formats.conventions import operations as ops
from vla.datasets.formats.conventions import rotations as rot

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
    assert np.allclose(turned(rot.compose(values)[None])[0], expected, atol=1e-7)


@pytest.mark.parametrize("name", ops.OPERATIONS)
def test_every_operation_is_described_and_keeps_the_steps(name):
    assert ops.OPERATIONS[name].__doc__
    width = {"quaternion_to_axis_angle": 4, "matrix_rows_to_axis_angle": 6}.get(name, 3)
    values = np.random.default_rng(0).uniform(0.1, 1, (5, width))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    assert len(ops.OPERATIONS[name](values)) == 5
