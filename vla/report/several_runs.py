"""Rates over several trainings on the same scenes, with intervals that account for both: another training would have given
another rate, and so would other scenes.

Outcomes are a table [runs, scenes], in which every run meets every scene. The variance of its mean has a part of the runs and one
of the scenes, as that of readers and cases in Obuchowski and Rockette (1995, Communications in Statistics 24, 285-308).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from vla.report.intervals import Rate, score_limits, wilson
from vla.report.proportions import Counts, combine
from vla.report.proportions import difference as paired_difference


@dataclasses.dataclass(frozen=True)
class Spread:
    """The variance of the mean of a table, and its degrees of freedom (Satterthwaite)."""

    variance: float
    freedom: float

    @classmethod
    def of(cls, table: np.ndarray) -> Spread:
        """Estimates both from a table [runs, scenes] of at least two runs and two scenes."""
        runs, scenes = table.shape
        by_run, by_scene = table.mean(1) - table.mean(), table.mean(0) - table.mean()
        rest = table - table.mean() - by_run[:, None] - by_scene
        of_runs = float(np.sum(by_run**2)) / (runs * (runs - 1))
        of_scenes = float(np.sum(by_scene**2)) / (scenes * (scenes - 1))
        # The remaining variation is in both parts, and counts once.
        twice = float(np.sum(rest**2)) / ((runs - 1) * (scenes - 1)) / (runs * scenes)
        if of_runs <= twice or of_scenes <= twice:
            return cls(of_scenes, scenes - 1) if of_scenes >= of_runs else cls(of_runs, runs - 1)
        variance = of_runs + of_scenes - twice
        parts = ((of_runs, runs - 1), (of_scenes, scenes - 1), (twice, (runs - 1) * (scenes - 1)))
        return cls(variance, variance**2 / sum(part**2 / freedom for part, freedom in parts))

    def quantile(self, level: float) -> float:
        """Returns Student's quantile of a two-sided interval."""
        from scipy.stats import t

        return float(t.ppf(0.5 + level / 2, self.freedom))


def pooled_rate(right: np.ndarray, trials: np.ndarray | None = None, level: float = 0.95) -> Rate:
    """Returns the share of the trials that were right, over all runs and scenes, with its interval.

    One run has Wilson's interval, which says nothing of other trainings. Several have it with the effective number of trials,
    p (1 - p) / variance, and Student's quantile. Where every outcome is the same, the scenes are counted, once for all runs.

    Args:
        right: bool [runs, scenes].
        trials: bool [runs, scenes], the outcomes that count; None is all. What was right was a trial.
    """
    trials = np.ones_like(right) if trials is None else trials
    total = int(trials.sum())
    if len(right) == 1 or not total:
        return wilson(int(right.sum()), total, level)
    rate = int(right.sum()) / total
    n, quantile = _effective(right, trials, rate, level)
    return Rate(rate, total, *score_limits(rate, n, quantile))


def pooled_difference(first: np.ndarray, second: np.ndarray, level: float = 0.95) -> Rate:
    """Returns the rate of the first minus that of the second, paired by run and scene, with its interval.

    One run has Newcombe's interval (`proportions.difference`). Several have it with the limits of `pooled_rate` and the
    correlation of the two rates over runs and scenes. `n` is the number of pairs.

    Args:
        first, second: bool [runs, scenes], outcomes of the same scenes.
    """
    if len(first) == 1:
        return paired_difference(Counts.of(first[0], second[0]), level)
    change = first.astype(float) - second
    spread = _spread(change)
    rates = [float(one.mean()) for one in (first, second)]
    variances = [_spread(one.astype(float)).variance for one in (first, second)]
    numbers = [_effective(one, np.ones_like(one), rate, level)[0] for one, rate in zip((first, second), rates, strict=True)]
    quantile = spread.quantile(level) if spread.variance else _normal(level)
    (low, high), (other_low, other_high) = (score_limits(r, n, quantile) for r, n in zip(rates, numbers, strict=True))
    phi = 0.0
    if min(variances) > 0:
        phi = (sum(variances) - spread.variance) / (2 * math.sqrt(math.prod(variances)))
        if phi > 0:
            # As Newcombe's: equal outcomes do not prove that the rates are equal.
            phi = max(0.0, phi - 1 / (2 * min(numbers) * math.sqrt(math.prod(p * (1 - p) for p in rates))))
    down, up = combine(rates[0] - low, other_high - rates[1], phi), combine(high - rates[0], rates[1] - other_low, phi)
    theta = rates[0] - rates[1]
    return Rate(theta, first.size, max(-1.0, theta - down), min(1.0, theta + up))


def _spread(table: np.ndarray) -> Spread:
    if table.shape[1] > 1:
        return Spread.of(table)
    return Spread(float(table.var(ddof=1)) / len(table), len(table) - 1)


def _effective(right: np.ndarray, trials: np.ndarray, rate: float, level: float) -> tuple[float, float]:
    """Returns the effective number of trials and the quantile of a share of them."""
    # A share of trials whose number varies: its linear part.
    spread = _spread((right - rate * trials) / trials.mean())
    if spread.variance <= 0 or not 0 < rate < 1:
        return float(trials.any(0).sum()), _normal(level)
    return min(rate * (1 - rate) / spread.variance, float(trials.sum())), spread.quantile(level)


def _normal(level: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(0.5 + level / 2)
