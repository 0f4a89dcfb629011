"""Rates over several trainings: what they come to by hand, and how often their intervals hold the truth."""

import numpy as np
import pytest
from scipy.stats import norm

from vla.report.intervals import wilson
from vla.report.proportions import Counts, difference
from vla.report.several_runs import Spread, pooled_difference, pooled_rate


def table(*rows):
    return np.array([[digit == "1" for digit in row] for row in rows])


def test_one_run_has_the_intervals_of_a_comparison():
    one, other = table("1110100110"), table("0110100010")
    assert pooled_rate(one) == wilson(6, 10)
    assert pooled_difference(one, other) == difference(Counts.of(one[0], other[0]))


def test_the_variance_has_a_part_of_the_runs_and_one_of_the_scenes():
    # Runs differ by 1/2, scenes not at all: the variance of a mean of two runs, with one degree of freedom.
    runs = Spread.of(np.array([[1.0, 1, 1, 1], [0.5, 0.5, 0.5, 0.5]]))
    assert runs.variance == pytest.approx(0.25**2) and runs.freedom == 1
    # Equal runs: the scenes alone.
    scenes = Spread.of(np.array([[1.0, 0, 1, 0]] * 3))
    assert scenes.variance == pytest.approx(1 / 12) and scenes.freedom == 3
    # Both: 0.25 ** 2 of the runs, 2 * 0.25 ** 2 / 2 of the scenes; nothing remains.
    both = Spread.of(np.array([[1.0, 0.5], [0.5, 0.0]]))
    assert both.variance == pytest.approx(0.25**2 + 0.25**2) and both.freedom == pytest.approx(2)


def test_trainings_that_differ_make_the_interval_wider_and_scenes_of_another_number_of_runs_do_not_narrow_it():
    alike = pooled_rate(table(*["1100110010"] * 3))
    apart = pooled_rate(table("1111111110", "1100110000", "1000000000"))
    assert alike.rate == 0.5 == pooled_rate(table("1100110010")).rate and alike.n == apart.n == 30
    assert apart.high - apart.low > 1.2 * (alike.high - alike.low)
    assert alike.high - alike.low >= wilson(5, 10).high - wilson(5, 10).low


@pytest.mark.parametrize("digit", "01")
def test_outcomes_that_are_all_equal_count_the_scenes_once(digit):
    same = table(*[digit * 20] * 3)
    rate = pooled_rate(same)
    assert (rate.low, rate.high) == pytest.approx((wilson(20 * int(digit), 20).low, wilson(20 * int(digit), 20).high))
    both = pooled_difference(same, same)
    assert both.rate == 0 and both.low < -0.1 and both.high > 0.1


def test_a_share_of_some_outcomes():
    executed, right = table("1110", "1100"), table("1100", "1000")
    rate = pooled_rate(right, executed)
    assert rate.rate == 3 / 5 and rate.n == 5 and 0 < rate.low < 0.6 < rate.high < 1
    assert pooled_rate(table("00", "00"), table("00", "00")).n == 0


def test_intervals_hold_the_truth():
    """Trainings and scenes are drawn; the first rate is 0.16 higher than the other."""
    rng, held, held_difference, studies = np.random.default_rng(0), 0, 0, 300
    low, high = (norm.cdf(mean / np.sqrt(1 + 0.3**2 + 1)) for mean in (0, 0.6))
    for _ in range(studies):
        scenes = rng.normal(0, 1, 40)
        one, other = (mean + rng.normal(0, 0.3, (3, 1)) + scenes + rng.normal(0, 1, (3, 40)) > 0 for mean in (0.6, 0))
        rate, apart = pooled_rate(other), pooled_difference(one, other)
        held += rate.low <= low <= rate.high
        held_difference += apart.low <= high - low <= apart.high
    assert min(held, held_difference) / studies > 0.92
