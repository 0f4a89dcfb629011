"""Statistics of two success rates on the same episodes: their difference with its interval, McNemar's test, the sample size."""

from __future__ import annotations

import dataclasses
import math
from statistics import NormalDist

import numpy as np

from vla.report.intervals import Rate, wilson

POWER = 0.8


@dataclasses.dataclass(frozen=True)
class Counts:
    """Numbers of pairs in which both succeed, only the first, only the second, neither."""

    both: int
    first: int
    second: int
    neither: int

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> Counts:
        """Counts the outcomes of two policies, bool [N] each."""
        return cls(*(int(np.sum(x)) for x in (first & second, first & ~second, ~first & second, ~first & ~second)))

    @property
    def n(self) -> int:
        return self.both + self.first + self.second + self.neither


def difference(counts: Counts, level: float = 0.95) -> Rate:
    """Returns the first rate minus the second, in [-1, 1], with Newcombe's interval for paired proportions.

    Method 10 of Newcombe 1998 (Statistics in Medicine 17, 2635-2650): it combines the squared distances to Wilson's limits of
    both rates with a continuity-corrected correlation. The interval stays within [-1, 1] and has a width even if no pair differs.

    Raises:
        ValueError: there are no pairs, or the level is outside (0, 1).
    """
    if not counts.n:
        raise ValueError("no pairs")
    a, b, c, d = counts.both, counts.first, counts.second, counts.neither
    one, two = wilson(a + b, counts.n, level), wilson(a + c, counts.n, level)
    excess = a * d - b * c
    if excess > 0:
        excess = max(0.0, excess - counts.n / 2)
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    phi = excess / math.sqrt(margins) if margins else 0.0
    down = combine(one.rate - one.low, two.high - two.rate, phi)
    up = combine(one.high - one.rate, two.rate - two.low, phi)
    theta = (b - c) / counts.n
    return Rate(theta, counts.n, max(-1.0, theta - down), min(1.0, theta + up))


def combine(one: float, two: float, phi: float) -> float:
    """Returns the distance of a difference from its limit: that of both rates from theirs, with the rates' correlation phi."""
    return math.sqrt(max(0.0, one * one - 2 * phi * one * two + two * two))


def mcnemar(first: int, second: int) -> float:
    """Returns the two-sided exact p-value of McNemar's test (1947, Psychometrika 12, 153-157).

    It is the binomial test on the pairs that differ. Null hypothesis: each policy is equally likely to be the one that succeeds.

    Args:
        first, second: numbers of pairs in which only the first, and only the second, succeeds.
    """
    m = first + second
    tail = combinations = 1
    for i in range(min(first, second)):
        combinations = combinations * (m - i) // (i + 1)
        tail += combinations
    return min(1.0, 2 * tail / 2**m)


def episodes_needed(counts: Counts, alpha: float = 0.05, power: float = POWER) -> int | None:
    """Returns how many pairs McNemar's exact test at level alpha needs if the true rates are the observed ones.

    None if the rates are equal. Miettinen's sample size for paired proportions (Biometrics 24, 1968, 339-352) with a continuity
    correction, because the exact test is conservative: the n that solves n·|θ| - 1 = z(α/2)·√(n·ψ) + z(power)·√(n·(ψ - θ²)),
    where θ is the difference and ψ the share of pairs that differ. It overestimates if one policy never fails alone.
    """
    theta, psi = abs(counts.first - counts.second) / counts.n, (counts.first + counts.second) / counts.n
    if theta == 0:
        return None
    normal = NormalDist()
    k = normal.inv_cdf(1 - alpha / 2) * math.sqrt(psi) + normal.inv_cdf(power) * math.sqrt(psi - theta * theta)
    return math.ceil(((k + math.sqrt(k * k + 4 * theta)) / (2 * theta)) ** 2)
