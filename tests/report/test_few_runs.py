"""The statistics of few runs, against their definitions and, where it is installed, against rliable."""

import numpy as np
import pytest
from scipy import stats

from vla.report.few_runs import improvement, interquartile_mean, interval, profile, ratio, table


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    return rng.normal(0.6, 0.1, (8, 3)), rng.normal(0.5, 0.1, (6, 3))


def test_definitions():
    assert interquartile_mean(np.array([[0.0], [1.0], [2.0], [100.0]])) == 1.5
    for n in range(1, 12):
        values = np.random.default_rng(n).normal(size=(n, 3))
        assert interquartile_mean(values) == stats.trim_mean(values.ravel(), 0.25)
    assert improvement(np.array([[1.0], [2.0]]), np.array([[1.0], [0.0]])) == (0.5 + 1 + 1 + 1) / 4
    assert np.array_equal(profile(np.array([[0.2], [0.6]]), np.array([0.0, 0.2, 0.5, 0.9])), [1.0, 0.5, 0.5, 0.0])
    assert ratio(np.ones((2, 1)), np.full((2, 1), 0.5)) == 2.0 and ratio(np.ones((2, 1)), np.zeros((2, 1))) == np.inf
    assert table([[1, 2, 3], [4, 5, 6]]).tolist() == [[1, 4], [2, 5], [3, 6]]


def test_an_interval_is_reproducible_holds_the_value_and_narrows(scores):
    first, second = scores
    result = interval(ratio, first, second)
    assert result == interval(ratio, first, second) and result.low < result.rate < result.high and result.n == 6
    wide = interval(interquartile_mean, first, level=0.99)
    narrow = interval(interquartile_mean, first, level=0.8)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_the_bootstrap_draws_within_tasks():
    scores = np.array([[0.0, 1.0]] * 5)
    result = interval(lambda s: float(s.mean()), scores)
    assert (result.low, result.high) == (0.5, 0.5)


def test_intervals_cover():
    """The interval of a mean over ten normal runs covers the truth about as often as the bootstrap's percentile interval does."""
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(100):
        result = interval(lambda s: float(s.mean()), rng.normal(1.0, 0.3, (10, 2)), draws=200, seed=trial)
        hits += result.low <= 1.0 <= result.high
    assert 85 <= hits <= 99


def test_an_infinite_ratio_is_said_and_is_no_nan():
    result = interval(ratio, np.full((3, 1), 0.5), np.array([[0.0], [0.0], [0.3]]))
    assert np.isinf(result.high) and not np.isnan(result.low)


def test_rliable_says_the_same(scores):
    pytest.importorskip("rliable")
    from rliable import library as rly
    from rliable import metrics

    first, second = scores
    assert interquartile_mean(first) == pytest.approx(metrics.aggregate_iqm(first))
    assert improvement(first, second) == pytest.approx(metrics.probability_of_improvement(first, second))
    taus = np.linspace(0, 1, 11)
    theirs, _ = rly.create_performance_profile({"a": first}, taus, reps=10)
    assert np.allclose(profile(first, taus), theirs["a"])
    _, theirs = rly.get_interval_estimates({"a": first}, lambda s: np.array([metrics.aggregate_iqm(s)]), reps=2000)
    ours = interval(interquartile_mean, first)
    assert np.allclose([ours.low, ours.high], theirs["a"][:, 0], atol=0.01)
