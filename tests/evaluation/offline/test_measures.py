"""Errors, gripper, smoothness and calibration, with values worked out by hand."""

import numpy as np
import pytest

from vla.contract import Embodiment, PolicyContract
from vla.datasets.demonstrations import Demonstration
from vla.evaluation.offline import measures
from vla.evaluation.offline.baselines import baselines
from vla.evaluation.offline.replay import Replay
from vla.observation import ActionChunk
from vla.space import Space

SPACE = Space(("x", "y", "grip"), ("m", "m", ""), (-0.1, 0.0, -1.0), (0.1, 4.0, 1.0), (None, 0.5, None))


def demonstration(actions, states=None, number=0):
    actions = np.array(actions, np.float32)
    states = np.arange(len(actions), dtype=np.float32)[:, None] if states is None else np.array(states, np.float32)
    return Demonstration(number, 0, actions, states, ["go"] * len(actions), "arm", lambda step: {})


def replayed(demonstrated, decoded, calls=(0,), **options):
    decoded = np.array(decoded, float)
    chunks = {t: ActionChunk(decoded[t:], np.zeros(len(decoded) - t, bool)) for t in calls}
    return Replay(demonstration(demonstrated, **options), decoded, np.zeros(len(decoded), bool), chunks)


def test_errors_are_in_half_ranges_and_leave_constant_dimensions_out():
    error = measures.scaled_error(SPACE, np.array([[0.05, 9.0, 1.0]]), np.array([[0.0, 0.5, -1.0]]))
    assert error == pytest.approx(np.array([[0.5, 2.0]]))


def test_mean_error_weighs_episodes_alike_and_has_an_interval():
    errors = [np.full((1, 2), 0.2), np.full((100, 2), 0.4), np.full((10, 2), 0.3)]
    rate = measures.mean_error(errors)
    assert rate.rate == pytest.approx(0.3) and rate.n == 3 and 0.19 < rate.low < 0.3 < rate.high < 0.41


def test_position_errors_reach_beyond_what_is_executed():
    one = replayed([[0.0, 0.5, -1.0]] * 3, [[0.0, 0.5, -1.0], [0.1, 0.5, -1.0], [0.0, 0.5, -1.0]], calls=(0, 2))
    # The first chunk has three positions, the second one.
    assert measures.position_errors(SPACE, [one]) == pytest.approx([0.0, 0.5, 0.0])


def test_a_gripper_has_two_values_and_its_confusion_is_counted():
    demonstrated = [[0.01 * i, 0.5, grip] for i, grip in enumerate((-1, -1, 1, 1, 1))]
    decoded = [[0.0, 0.5, grip] for grip in (-0.9, 0.2, 1.0, 0.4, -1.0)]
    one = replayed(demonstrated, decoded)
    assert measures.grippers(SPACE, [one.demonstration.action]) == {2: (-1.0, 1.0)}
    assert measures.gripper_confusion([one], 2, (-1.0, 1.0)) == {
        "values": [-1.0, 1.0],
        "counts": [[1, 1], [1, 2]],
        "agreement": 0.6,
    }
    long = np.array([[0, 0, g] for g in (-1,) * 6 + (1,) * 6], np.float32)
    assert measures.near_changes(long, [2]).tolist() == [4 <= i <= 8 for i in range(12)]


def test_jerk_is_zero_for_even_motion():
    even = np.array([[0.01 * i, 0.5, -1.0] for i in range(5)])
    trembling = even + np.array([[0.01 * (-1) ** i, 0, 0] for i in range(5)])
    assert measures.jerk([even], SPACE) == pytest.approx(0)
    # The second difference of (-1)^i d is 4 d; over 0.1 m and two dimensions that is 0.2.
    assert measures.jerk([trembling], SPACE) == pytest.approx(0.2)
    assert np.isnan(measures.jerk([even[:2]], SPACE))


def test_calibration_compares_probability_with_how_often_the_token_is_the_demonstrated_one():
    space = Space(("x", "y"), ("m", "m"), (0.0, 0.0), (256.0, 256.0))
    contract = PolicyContract({"arm": Embodiment((), SPACE, space)}, chunk=2, terminate=True, plan=())
    demonstrated = [[10.5, 20.5], [30.5, 40.5], [50.5, 60.5]]
    said = ([[1, 0.95, 0.95], [1, 0.95, 0.95]], [[1, 0.25, 0.25], [1, 0, 0]])
    # The second position of the second chunk is past the end of the episode.
    decoded = ([[10.5, 21.5], [30.5, 40.5]], [[50.5, 60.5], [0.5, 0.5]])
    chunks = {
        step: ActionChunk(np.array(actions), np.zeros(2, bool), {"probabilities": {"steps": steps}})
        for step, actions, steps in zip((0, 2), decoded, said, strict=True)
    }
    one = Replay(demonstration(demonstrated), np.array(demonstrated), np.zeros(3, bool), chunks)
    result = measures.calibration(contract, "arm", [one])
    assert result["right"] == pytest.approx(5 / 6) and result["probability"] == pytest.approx((4 * 0.95 + 2 * 0.25) / 6)
    # In the upper bin 0.95 was said and 3 of 4 were right; in the lower one 0.25, and both were.
    assert result["error"] == pytest.approx((0.2 * 4 + 0.75 * 2) / 6)
    assert measures.calibration(contract, "arm", []) is None


def test_baselines():
    training = [demonstration([[0.0, 0.5, -1], [0.02, 0.5, -1]], [[0.0], [1.0]]), demonstration([[0.04, 0.5, 1]], [[10.0]], 1)]
    fitted = baselines(training)
    one = replayed([[0.1, 0.5, 1], [0.2, 0.5, 1], [0.3, 0.5, 1]], np.zeros((3, 3)), calls=(0, 2), states=[[0.1], [0.2], [9.0]])
    mean = [0.02, 0.5, -1 / 3]
    assert fitted["mean"](one) == pytest.approx(np.array([mean] * 3), abs=1e-6)
    # Before the first call nothing was done; the second is after step 1.
    assert fitted["last"](one) == pytest.approx(np.array([mean, mean, [0.2, 0.5, 1]]), abs=1e-6)
    # The nearest to 0.1 is the first state, whose episode goes on; to 9 the last one.
    assert fitted["nearest"](one) == pytest.approx(np.array([[0, 0.5, -1], [0.02, 0.5, -1], [0.04, 0.5, 1]]), abs=1e-6)
