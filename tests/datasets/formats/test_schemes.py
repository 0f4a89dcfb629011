"""Statistics and normalisation by their owners' definitions.

golden_statistics.json: what is named openpi and lerobot was made by their own code. OpenVLA's part was made without ours, from
what its get_dataset_statistics is described to do (TensorFlow is not here): all float32 steps in one array `a`, then in NumPy
`a.mean(0)`, `a.std(0)`, `a.min(0)`, `a.max(0)`, `numpy.quantile(a, 0.01, axis=0)` and `numpy.quantile(a, 0.99, axis=0)`.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from vla.contract import PolicyContract
from vla.datasets.formats.statistics import norm_stats, schemes
from vla.errors import UserError

GOLDEN = json.loads((Path(__file__).parent / "golden_statistics.json").read_text())
STATISTICS = {
    "q01": [-1.0, 0],
    "q99": [3.0, 0],
    "min": [-2.0, 0],
    "max": [4.0, 0],
    "mean": [0.5, 0],
    "std": [2.0, 0],
    "q10": [0, 0.0],
    "q90": [1, 0.0],
}


def episodes():
    """The values that the golden numbers are of."""
    rng = np.random.default_rng(7)
    return [rng.normal(k, [1, 0.1, 30], (20 + 13 * k, 3)) for k in range(4)]


@pytest.mark.parametrize("scheme", ["openpi", "openpi-padded"])
def test_openpis(scheme):
    computed = schemes.openpi(episodes(), padded=scheme == "openpi-padded")
    for name, expected in GOLDEN[scheme].items():
        assert computed[name] == pytest.approx(expected, rel=1e-12), name


@pytest.mark.parametrize("scheme", ["lerobot", "lerobot-mean"])
def test_lerobots(scheme):
    computed = schemes.lerobot(map(schemes.lerobot_episode, episodes()), weighted=scheme == "lerobot-mean")
    for name, expected in GOLDEN[scheme].items():
        assert computed[name] == pytest.approx(expected, rel=1e-12), name


def test_openvlas():
    computed = schemes.openvla(lambda: iter([e.astype(np.float32) for e in episodes()]), [True, True, False])
    assert GOLDEN["openvla"].keys() == computed.keys() - {"mask"}
    for name, expected in GOLDEN["openvla"].items():
        # Sums of float32 are rounded as they grow; what is picked from the values is not summed.
        assert computed[name] == pytest.approx(expected, rel=1e-5 if name in ("mean", "std") else 1e-6), name
    assert computed["mask"].tolist() == [True, True, False]


def test_normalisations_are_as_they_define_them():
    s = {**{k: np.array(v, float) for k, v in STATISTICS.items()}, "mask": np.array([True, False])}
    x = np.array([2.0, 0.25])
    assert schemes.normalise(x, s, "openvla").tolist() == pytest.approx([0.5, 0.0], abs=1e-7)
    assert schemes.normalise(np.array([9.0, 0]), s, "openvla")[0] == 1
    assert schemes.normalise(x, s, "openpi-quantiles")[0] == pytest.approx((2 + 1) / (4 + 1e-6) * 2 - 1, rel=1e-12)
    assert schemes.normalise(x, s, "openpi-mean-std")[0] == pytest.approx(1.5 / (2 + 1e-6), rel=1e-12)
    assert schemes.normalise(x, s, "lerobot-mean-std")[0] == pytest.approx(1.5 / (2 + 1e-8), rel=1e-12)
    assert schemes.normalise(x, s, "lerobot-min-max")[0] == pytest.approx(2 * 4 / 6 - 1, rel=1e-12)
    assert schemes.normalise(x, s, "lerobot-quantiles")[0] == pytest.approx(2 * 3 / 4 - 1, rel=1e-12)
    assert schemes.normalise(x, s, "lerobot-quantiles10")[0] == pytest.approx(2 * 2 - 1, rel=1e-12)
    with pytest.raises(UserError, match="unknown scheme"):
        schemes.normalise(x, s, "ours")


@pytest.mark.parametrize("scheme", ["openvla", *schemes.NORMALISATIONS])
def test_back_again(scheme):
    s = {**{k: np.array(v, float) for k, v in STATISTICS.items()}, "mask": np.array([True, False])}
    s["max"][1] = 1
    x = np.array([[2.0, 0.25], [-0.5, 0.0]])
    assert np.allclose(schemes.unnormalise(schemes.normalise(x, s, scheme), s, scheme), x, atol=1e-7)


NORM_STATS = {
    "bridge_orig": {
        "action": {
            "mean": [0.1] * 7,
            "std": [0.5] * 7,
            "min": [-1.0] * 5 + [0.25, 0.0],
            "max": [1.0] * 5 + [0.25, 1.0],
            "q01": [-0.5] * 5 + [0.25, 0.0],
            "q99": [0.5] * 5 + [0.25, 1.0],
            "mask": [True] * 6 + [False],
        },
        "proprio": {k: [0.0 if k == "min" else 1.0] * 8 for k in ("mean", "std", "min", "max", "q01", "q99")}
        | {"q01": [0.0] * 8, "mask": [True] * 8},
        "num_transitions": 2135463,
        "num_trajectories": 60064,
    }
}


def test_openvlas_statistics_become_embodiments_and_back():
    computed = norm_stats.embodiments(NORM_STATS)
    action = computed["bridge_orig"].action
    assert action.names[-1] == "gripper" and action.low[0] == -0.5 and action.high[6] == 1 and action.low[6] == -1
    assert action.constant[5] == 0.25 and computed["bridge_orig"].gripper == "0 closed, 1 open"
    contract = PolicyContract(computed)
    again = PolicyContract.from_dict(json.loads(contract.to_json()))
    counts = {"bridge_orig": {"steps": 2135463, "episodes": 60064}}
    assert norm_stats.norm_stats(again.embodiments, counts) == NORM_STATS


def test_without_statistics_there_is_nothing_to_say():
    with pytest.raises(UserError, match="no action statistics"):
        norm_stats.embodiments({"a": {}})
    with pytest.raises(UserError, match="q99: missing"):
        norm_stats.embodiments({"a": {"action": {**NORM_STATS["bridge_orig"]["action"], "q99": []}}})
