import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.report.proportions import Counts, difference, episodes_needed, mcnemar

counts = st.builds(Counts, *[st.integers(0, 60)] * 4).filter(lambda c: c.n > 0)


def tables(n):
    """Every table of n pairs: int [T, 4]."""
    grid = np.stack(np.meshgrid(*[np.arange(n + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    grid = grid[grid.sum(1) <= n]
    return np.concatenate([grid, n - grid.sum(1, keepdims=True)], 1)


def probability(table, shares):
    """Multinomial probability of every table: [T]."""
    factorial = np.array([math.lgamma(k + 1) for k in range(table.sum(1)[0] + 1)])
    with np.errstate(divide="ignore", invalid="ignore"):
        powers = np.where(table > 0, table * np.log(shares), 0.0)
    return np.exp(factorial[-1] - factorial[table].sum(1) + powers.sum(1))


def shares(p, q, correlation):
    """Probabilities of the four outcomes of a pair with success rates p and q; some negative where there is no such pair."""
    both = p * q + correlation * math.sqrt(p * (1 - p) * q * (1 - q))
    return np.array([both, p - both, q - both, 1 - p - q + both])


def test_published_intervals():
    for table, low, high in [
        ((36, 12, 2, 0), 0.0569, 0.3404),  # Newcombe 1998, Statistics in Medicine 17, 2635-2650, method 10
        ((12, 9, 2, 21), 0.0112, 0.2954),  # the same
        ((1, 1, 7, 12), -0.507, -0.026),  # Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33, 2850-2875
        ((59, 6, 16, 80), -0.1186, -0.0046),  # Fagerland, Lydersen and Laake 2017, chapter 8
        ((14, 5, 0, 22), 0.011, 0.226),  # Altman and others 2000, Statistics with Confidence, table 6.2
    ]:
        result = difference(Counts(*table))
        digits = 5e-5 if round(low, 3) != low else 6e-4
        assert (result.low, result.high) == (pytest.approx(low, abs=digits), pytest.approx(high, abs=digits)), table


def test_published_p_values():
    for first, second, p in [
        (1, 7, 0.0703),  # Fagerland, Lydersen and Laake 2013, BMC Medical Research Methodology 13:91
        (6, 16, 0.052479),  # the same authors 2017, chapter 8
        (9, 2, 0.06543),  # Fay 2010, R Journal 2(1), 53-58
        (10, 2, 0.0386),
        (0, 5, 0.0625),
        (0, 0, 1.0),
        (4, 4, 1.0),
    ]:
        assert mcnemar(first, second) == pytest.approx(p, abs=5e-5)
    assert 0 < mcnemar(2400, 2600) < 0.01, "thousands of pairs do not overflow"


@given(counts)
def test_the_other_way_round_is_the_mirror_image(c):
    there, back = difference(c), difference(Counts(c.both, c.second, c.first, c.neither))
    assert -1 <= there.low <= there.rate <= there.high <= 1 and there.low < there.high
    assert (back.rate, back.low, back.high) == pytest.approx((-there.rate, -there.high, -there.low), abs=1e-12)
    assert mcnemar(c.first, c.second) == mcnemar(c.second, c.first)
    assert episodes_needed(c) == episodes_needed(Counts(c.neither, c.second, c.first, c.both))


@pytest.mark.parametrize(("n", "least"), [(20, 0.91), (50, 0.94)])
def test_the_interval_covers(n, least):
    """Exactly: every table of n pairs, weighted, over rates from 5 to 95 % and correlations from 0 to 0.8."""
    table = tables(n)
    result = [difference(Counts(*(int(x) for x in row))) for row in table]
    low, high = np.array([r.low for r in result]) - 1e-12, np.array([r.high for r in result]) + 1e-12
    covered = []
    for p, q, correlation in itertools.product(np.linspace(0.05, 0.95, 7), np.linspace(0.05, 0.95, 7), (0.0, 0.3, 0.6, 0.8)):
        outcome = shares(p, q, correlation)
        if outcome.min() >= 0:
            covered.append(probability(table, outcome)[(low <= p - q) & (p - q <= high)].sum())
    assert len(covered) > 100 and min(covered) >= least and np.mean(covered) >= 0.95, (min(covered), np.mean(covered))


def rejecting(n, alpha=0.05):
    """bool [n + 1, n + 1]: whether McNemar's test separates first and second."""
    return np.array([[i + j <= n and mcnemar(i, j) <= alpha for j in range(n + 1)] for i in range(n + 1)])


@pytest.mark.parametrize("psi", [0.05, 0.3, 0.8])
def test_equal_policies_are_separated_no_more_often_than_alpha(psi):
    table = tables(40)
    weight = probability(table, np.array([(1 - psi) / 2, psi / 2, psi / 2, (1 - psi) / 2]))
    assert weight[rejecting(40)[table[:, 1], table[:, 2]]].sum() <= 0.05


@pytest.mark.parametrize("seen", [(30, 12, 3, 5), (80, 8, 2, 10), (20, 10, 5, 15), (40, 6, 0, 4), (5, 14, 1, 0)])
def test_the_needed_episodes_give_the_power(seen):
    c = Counts(*seen)
    n = episodes_needed(c)
    assert n
    psi, share = (c.first + c.second) / c.n, c.first / (c.first + c.second)
    power = 0.0
    for m in range(n + 1):
        differing = math.comb(n, m) * psi**m * (1 - psi) ** (n - m)
        if differing > 1e-9:
            power += differing * sum(
                math.comb(m, k) * share**k * (1 - share) ** (m - k) for k in range(m + 1) if mcnemar(k, m - k) <= 0.05
            )
    # Never much less; more where one policy never fails alone.
    assert 0.77 <= power <= (0.88 if c.second > 1 else 0.93)
    assert episodes_needed(c, 0.01) > n


def test_equal_rates_need_no_number():
    assert episodes_needed(Counts(10, 4, 4, 2)) is None and episodes_needed(Counts(10, 0, 0, 2)) is None
    with pytest.raises(ValueError):
        difference(Counts(0, 0, 0, 0))


def test_counts_are_taken_from_outcomes():
    first, second = np.array([1, 1, 1, 0, 0], bool), np.array([1, 0, 0, 1, 0], bool)
    assert Counts.of(first, second) == Counts(1, 2, 1, 1)
