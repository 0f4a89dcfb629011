import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.report.intervals import mean, wilson


def test_published_values():
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
    for successes, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        rate = wilson(successes, n)
        assert (rate.low, rate.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_rate_lies_in_its_interval_and_failures_mirror_successes(case):
    successes, n = case
    rate, mirror = wilson(successes, n), wilson(n - successes, n)
    assert 0 <= rate.low <= rate.rate <= rate.high <= 1 and rate.low < rate.high
    assert mirror.low == pytest.approx(1 - rate.high) and wilson(successes, n, 0.99).high >= rate.high
    assert rate.to_dict().keys() == {"rate", "n", "low", "high"}


def test_no_trials_and_nonsense():
    assert math.isnan(wilson(0, 0).rate) and wilson(0, 0).n == 0 and str(wilson(0, 0)) == "no trials"
    for bad in [(3, 2), (-1, 2), (1, 2, 1.0)]:
        with pytest.raises(ValueError):
            wilson(*bad)


def test_words_never_round_to_all_or_nothing():
    assert str(wilson(199, 200)).startswith("99.5 % of 200 (97 to 99.9 %)")
    assert str(wilson(0, 40)).startswith("0 % of 40 (0 to 9 %)")


def test_the_mean_of_rates_has_an_interval_that_covers():
    rng, shares, n = np.random.default_rng(0), np.array([0.7, 0.8, 0.9, 0.95, 0.98, 0.99]), 40
    drawn = rng.binomial(n, shares, (3000, len(shares)))
    means = [mean([wilson(int(k), n) for k in row]) for row in drawn]
    covered = np.mean([m.low <= shares.mean() <= m.high for m in means])
    assert 0.94 <= covered <= 0.985
    for m in means[:100]:
        assert 0 <= m.low <= m.rate <= m.high <= 1 and m.n == n * len(shares)


def test_the_mean_of_one_rate_is_that_rate():
    one, same = wilson(7, 9), mean([wilson(7, 9)])
    assert (same.rate, same.n, same.low, same.high) == (one.rate, one.n, pytest.approx(one.low), pytest.approx(one.high))
    assert math.isnan(mean([]).rate) and mean([wilson(9, 10)] * 4).low > wilson(9, 10).low
