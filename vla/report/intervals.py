"""Rates and their confidence intervals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any


@dataclasses.dataclass(frozen=True)
class Rate:
    """A share of n trials with its interval; rate, low and high are in [0, 1], and NaN if n is 0."""

    rate: float
    n: int
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        if not self.n:
            return "no trials"
        return f"{percent(self.rate)} % of {self.n} ({percent(self.low)} to {percent(self.high)} %)"


def percent(share: float) -> str:
    """Returns a share in whole per cent, with one decimal if it would wrongly round to 0 or 100."""
    whole = f"{100 * share:.0f}"
    return f"{100 * share:.1f}" if whole in ("0", "100") and f"{share:.3f}" not in ("0.000", "1.000") else whole


def wilson(successes: int, n: int, level: float = 0.95) -> Rate:
    """Returns the share with Wilson's score interval (Wilson 1927), which stays within [0, 1] and has a width at 0 and at n.

    Raises:
        ValueError: successes are outside 0..n, or the level is outside (0, 1).
    """
    if not 0 <= successes <= n or not 0 < level < 1:
        raise ValueError(f"{successes} successes of {n} at level {level}")
    if n == 0:
        return Rate(math.nan, 0, math.nan, math.nan)
    rate = successes / n
    return Rate(rate, n, *score_limits(rate, n, NormalDist().inv_cdf(0.5 + level / 2)))


def score_limits(rate: float, n: float, quantile: float) -> tuple[float, float]:
    """Returns the limits of Wilson's score interval for a share of n trials.

    Args:
        n: number of trials; not whole where it is an effective number.
        quantile: of the normal or of Student's distribution, e.g. 1.96.
    """
    z2 = quantile * quantile
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = quantile / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    # Rounding must not put the rate outside its interval.
    return min(rate, max(0.0, centre - half)), max(rate, min(1.0, centre + half))


def mean(rates: Sequence[Rate]) -> Rate:
    """Returns the unweighted mean of independent shares, or of differences, with an interval computed from theirs; n is the sum.

    The squared distances from each share to its limits are added, so the mean inherits the properties of Wilson's limits
    (Newcombe 1998, Statistics in Medicine 17, 873-890; for sums, Zou and Donner 2008, Statistics in Medicine 27, 1693-1702).
    """
    if not rates:
        return wilson(0, 0)
    centre, count = sum(r.rate for r in rates) / len(rates), len(rates)
    down, up = math.hypot(*(r.rate - r.low for r in rates)) / count, math.hypot(*(r.high - r.rate for r in rates)) / count
    return Rate(centre, sum(r.n for r in rates), centre - down, centre + up)
