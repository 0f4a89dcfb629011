import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.report.pairing import interleaved
from vla.report.sequential import log_e_values, sequential

ALPHA = 0.05


def draw(rng, runs, n, first, second):
    """Differences [runs, n]: 1 with probability first, -1 with probability second."""
    x = rng.random((runs, n), np.float32)
    return (x < first).astype(np.int8) - (x > 1 - second).astype(np.int8)


def ever(differences):
    return (log_e_values(differences) >= -math.log(ALPHA)).any(-1)


@given(st.lists(st.sampled_from([-1, 0, 1]), max_size=60))
def test_the_e_value_is_the_uniform_mixture_of_all_bets(differences):
    path = log_e_values(np.array(differences, int))
    for n in range(1, len(differences) + 1):
        k, m = differences[:n].count(1), n - differences[:n].count(0)
        assert path[n - 1] == pytest.approx(math.log(2**m / ((m + 1) * math.comb(m, k))), abs=1e-9)
    result, mirror = sequential(np.array(differences, int)), sequential(-np.array(differences, int))
    assert result == mirror and (result.stop is not None) == (result.p <= ALPHA + 1e-9) and 0 < result.p <= 1


def test_the_next_episode_changes_nothing_on_average_if_policies_are_equal():
    # A martingale: from any past, the mean over the next outcome is the capital itself.
    for past in ([], [1], [1, 1, -1], [0, 1, 0, -1, -1, -1]):
        now = math.exp(log_e_values(np.array(past, int))[-1]) if past else 1.0
        then = [math.exp(log_e_values(np.array([*past, x]))[-1]) for x in (1, -1)]
        assert np.mean(then) == pytest.approx(now)


def test_stop_is_the_first_episode_that_reaches_one_over_alpha():
    result = sequential(np.array([0, *[1] * 7, 0, 1, 1]))
    # 2^8 / 9 = 28.4 is the first above 20; 2^10 / 11 with the next.
    assert result.stop == 10 and result.p == pytest.approx(10 / 2**9) and result.log10_e[0] == 0
    assert sequential(np.array([1] * 8), 1 / (2**8 / 9)).stop == 8, "reached exactly counts"
    assert sequential(np.array([1] * 7)).stop is None and sequential(np.array([], int)).p == 1


@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
def test_equal_policies_are_seldom_separated_however_often_one_looks(share):
    rng = np.random.default_rng(0)
    wrong = ever(draw(rng, 10_000, 500, share / 2, share / 2)).mean()
    assert wrong <= ALPHA, wrong


def test_no_false_alarm_at_all_looks_exactly():
    """The distribution of (pairs, wins) that have not stopped yet, followed through 2,000 pairs that differ."""
    alive, stopped = np.array([1.0]), 0.0
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, 2002)))])
    for m in range(1, 2001):
        alive = (np.append(alive, 0.0) + np.append(0.0, alive)) / 2
        k = np.arange(m + 1)
        log_e = m * math.log(2) - log_factorial[m + 1] + log_factorial[k] + log_factorial[m - k]
        stopped += alive[log_e >= -math.log(ALPHA)].sum()
        alive = np.where(log_e >= -math.log(ALPHA), 0.0, alive)
    assert 0.02 < stopped <= ALPHA


def test_equal_on_average_over_tasks_that_differ():
    """Half the tasks are won by one policy, half by the other: what the order of episodes is for."""
    rng = np.random.default_rng(1)
    keys = [(f"task {t}", "seen", seed, "correct") for t in range(10) for seed in range(20)]
    order = [keys.index(key) for key in interleaved(keys)]
    won = np.repeat(np.where(np.arange(10) < 5, 0.5, 0.1), 20)
    x = rng.random((10_000, 200))
    blocks = np.where(x < won, 1, np.where(x > 1 - (0.6 - won), -1, 0))
    assert ever(blocks[:, order]).mean() <= ALPHA
    assert ever(blocks).mean() > 0.5, "task by task the same episodes would mislead"


@pytest.mark.parametrize(
    ("first", "second", "n", "power"), [(0.2, 0.05, 200, 0.92), (0.3, 0.1, 200, 0.93), (0.12, 0.02, 200, 0.87)]
)
def test_it_has_power(first, second, n, power):
    result = ever(draw(np.random.default_rng(2), 5_000, n, first, second)).mean()
    assert result >= power, result
