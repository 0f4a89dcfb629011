"""Intervals of rates."""

from __future__ import annotations

import dataclasses
import math
from statistics import NormalDist
from typing import Any


@dataclasses.dataclass(frozen=True)
class Rate:
    """A share of n trials with its interval; rate, low and high are in [0, 1], NaN where n is 0."""

    rate: float
    n: int
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return f"{self.rate:.0%} ({self.low:.0%} to {self.high:.0%}, n = {self.n})" if self.n else "no trials"


def wilson(successes: int, n: int, level: float = 0.95) -> Rate:
    """The share with Wilson's score interval (Wilson 1927), which stays within [0, 1] and is honest at 0 and at n successes.

    Raises:
        ValueError: successes outside 0..n, or a level outside (0, 1).
    """
    if not 0 <= successes <= n or not 0 < level < 1:
        raise ValueError(f"{successes} successes of {n} at level {level}")
    if n == 0:
        return Rate(math.nan, 0, math.nan, math.nan)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # Rounding must not put the rate outside its own interval.
    return Rate(rate, n, min(rate, max(0.0, centre - half)), max(rate, min(1.0, centre + half)))
