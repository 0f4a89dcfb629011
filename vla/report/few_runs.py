"""Statistics for a handful of training runs (Agarwal et al. 2021, arXiv 2108.13264), as in `rliable`.

Scores are [runs, tasks]: every task has its own runs, and the bootstrap draws runs within each task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from einops import rearrange

from vla.report.intervals import Rate

DRAWS = 2000


def interquartile_mean(scores: np.ndarray) -> float:
    """Returns the mean of the middle half of all scores."""
    values, cut = np.ravel(scores), scores.size // 4
    # As scipy's trim_mean, which takes ten times as long for a handful: an interval needs thousands.
    return float(np.partition(values, (cut, len(values) - cut - 1))[cut : len(values) - cut].mean())


def profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Returns the performance profile [T]: the share of runs whose score is above each threshold [T]."""
    return (np.ravel(scores)[:, None] > thresholds).mean(0)


def improvement(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the probability that a run of the first beats a run of the second, averaged over tasks; ties count half."""
    differences = first[:, None] - second[None]
    return float(((differences > 0) + 0.5 * (differences == 0)).mean())


def ratio(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the ratio of the mean scores, first to second; infinite if the second is 0."""
    return float(np.mean(first) / np.mean(second)) if np.mean(second) else float("inf")


def interval(
    statistic: Callable[..., float], *scores: np.ndarray, level: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> Rate:
    """Returns a statistic of one or several sets of scores [runs, tasks] with its stratified-bootstrap percentile interval.

    The sets are resampled independently of each other. `n` is the smallest number of runs.
    """
    rng = np.random.default_rng(seed)
    drawn = [statistic(*(_resample(one, rng) for one in scores)) for _ in range(draws)]
    # "nearest" picks drawn values; interpolating between two fails if one is infinite.
    low, high = np.percentile(drawn, [50 * (1 - level), 50 * (1 + level)], method="nearest")
    return Rate(statistic(*scores), min(len(one) for one in scores), float(low), float(high))


def _resample(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    runs, tasks = scores.shape
    return scores[rng.integers(0, runs, (runs, tasks)), np.arange(tasks)]


def table(runs: Sequence[Sequence[float]]) -> np.ndarray:
    """Returns scores [runs, tasks] from the runs of each task.

    Raises:
        ValueError: the tasks have unequal numbers of runs.
    """
    return rearrange(np.array(runs, float), "task run -> run task")
