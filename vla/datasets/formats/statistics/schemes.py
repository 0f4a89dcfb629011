"""Statistics and normalisation as OpenVLA, openpi and LeRobot define them, computed one episode at a time.

The schemes differ in their quantiles. OpenVLA uses exact quantiles of all steps. openpi uses a histogram of 5000 bins that grows
with the range and loses its lowest bin when it grows ("openpi-padded" corrects this). LeRobot uses the outermost of the episodes'
quantiles; earlier versions used their mean weighted by length ("lerobot-mean").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from vla.datasets.formats.statistics.moments import summary
from vla.errors import UserError

Statistics = dict[str, np.ndarray]
BINS = 5000
LEROBOT = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


def openvla(chunks: Callable[[], Iterator[np.ndarray]], normalised: Sequence[bool] | None = None) -> Statistics:
    """mean, std, min, max, q01, q99 of all steps, and mask, True for normalised dimensions (prismatic, data_utils)."""
    statistics = {name: np.array(row) for name, row in summary(chunks).items()}
    size = len(statistics["mean"])
    return {**statistics, "mask": np.ones(size, bool) if normalised is None else np.array(normalised, bool)}


class Histogram:
    """Counts of values per dimension in BINS equal bins between the minimum and maximum so far (openpi, shared/normalize).

    Args:
        padded: whether a range that has grown is slightly wider than its values, like the first range.
    """

    def __init__(self, padded: bool = True) -> None:
        self.count, self.padded = 0, padded

    def update(self, values: np.ndarray) -> None:
        """Adds values [N, D]."""
        values = np.asarray(values, np.float64)
        low, high, n = values.min(0), values.max(0), len(values)
        mean, square = values.mean(0), (values**2).mean(0)
        if not self.count:
            self.low, self.high, self.mean, self.square = low, high, mean, square
            self.edges = [_edges(a, b) for a, b in zip(low, high, strict=True)]
            self.counts = [np.zeros(BINS) for _ in low]
            self.count = n
        else:
            wider = bool((low < self.low).any() or (high > self.high).any())
            self.low, self.high = np.minimum(low, self.low), np.maximum(high, self.high)
            if wider:
                self._widen()
            self.count += n
            self.mean = self.mean + (mean - self.mean) * (n / self.count)
            self.square = self.square + (square - self.square) * (n / self.count)
        for d, edges in enumerate(self.edges):
            self.counts[d] += np.histogram(values[:, d], bins=edges)[0]

    def _widen(self) -> None:
        """Moves the counts of each old bin to the new bin that contains its left edge."""
        for d, old in enumerate(self.edges):
            self.edges[d] = _edges(self.low[d], self.high[d], 1e-10 if self.padded else 0.0)
            self.counts[d] = np.histogram(old[:-1], bins=self.edges[d], weights=self.counts[d])[0]

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(np.maximum(0, self.square - self.mean**2))

    def quantile(self, share: float, within: bool = False) -> np.ndarray:
        """[D] the left edge of the quantile's bin; `within` interpolates in the bin, as LeRobot does."""
        values = []
        for counts, edges in zip(self.counts, self.edges, strict=True):
            total = np.cumsum(counts)
            bin_ = int(np.searchsorted(total, share * self.count))
            value = edges[min(bin_, BINS)]
            if within and 0 < bin_ < BINS and counts[bin_]:
                value += (share * self.count - total[bin_ - 1]) / counts[bin_] * (edges[bin_ + 1] - edges[bin_])
            values.append(value)
        return np.array(values)


def _edges(low: float, high: float, beyond: float = 1e-10) -> np.ndarray:
    return np.linspace(low - beyond, high + beyond, BINS + 1)


def openpi(batches: Iterable[np.ndarray], padded: bool = False) -> Statistics:
    """mean, std, q01, q99 of batches [N, D] (openpi, scripts/compute_norm_stats). The quantiles depend slightly on the order."""
    histogram = Histogram(padded)
    for batch in batches:
        if len(batch):
            histogram.update(batch)
    if histogram.count < 2:
        raise UserError(f"{histogram.count} values", "openpi statistics", "give at least 2")
    return {"mean": histogram.mean, "std": histogram.std, "q01": histogram.quantile(0.01), "q99": histogram.quantile(0.99)}


def lerobot_episode(values: np.ndarray) -> Statistics:
    """min, max, mean, std, count and five quantiles of one episode's values [N, D] (lerobot, datasets/compute_stats)."""
    values = np.asarray(values, np.float64)
    common = {"min": values.min(0), "max": values.max(0), "count": np.array([len(values)])}
    if len(values) < 2:
        mean = values.mean(0)
        return {**common, "mean": mean, "std": values.std(0), **{name: mean.copy() for name in LEROBOT}}
    histogram = Histogram()
    histogram.update(values)
    quantiles = {name: histogram.quantile(share, within=True) for name, share in LEROBOT.items()}
    return {**common, "mean": histogram.mean, "std": histogram.std, **quantiles}


def lerobot(episodes: Iterable[Statistics], weighted: bool = False) -> Statistics:
    """Combines the statistics of episodes.

    A quantile is the minimum of the episodes' up to the median, and their maximum above. `weighted`: their mean by length.
    """
    count, mean, square, low, high = 0, 0.0, 0.0, np.inf, -np.inf
    quantiles: dict[str, Any] = {
        name: 0.0 if weighted else np.inf if share <= 0.5 else -np.inf for name, share in LEROBOT.items()
    }
    for episode in episodes:
        n = int(episode["count"][0])
        difference = episode["mean"] - mean
        square = square + episode["std"] ** 2 * n + difference**2 * (count * n / (count + n))
        mean = mean + difference * (n / (count + n))
        for name, share in LEROBOT.items():
            before = quantiles[name]
            outer = (np.minimum if share <= 0.5 else np.maximum)(before, episode[name])
            quantiles[name] = before + (episode[name] - before) * (n / (count + n)) if weighted else outer
        low, high, count = np.minimum(low, episode["min"]), np.maximum(high, episode["max"]), count + n
    if not count:
        raise UserError("no episodes", "lerobot statistics")
    combined = {"min": low, "max": high, "mean": mean, "std": np.sqrt(square / count), **quantiles}
    return {**{name: np.asarray(value) for name, value in combined.items()}, "count": np.array([count])}


def _scaled(low: str, high: str, epsilon: float) -> Callable[[Statistics], tuple[np.ndarray, np.ndarray]]:
    """The centre and the half width of a range that is scaled to -1 to 1."""

    def span(s: Statistics) -> tuple[np.ndarray, np.ndarray]:
        width = s[high] - s[low]
        width = width + epsilon if epsilon > 0 else np.where(width == 0, -epsilon, width)
        return s[low] + width / 2, width / 2

    return span


NORMALISATIONS: dict[str, Callable[[Statistics], tuple[np.ndarray, np.ndarray]]] = {
    "openpi-quantiles": _scaled("q01", "q99", 1e-6),
    "openpi-mean-std": lambda s: (s["mean"], s["std"] + 1e-6),
    "lerobot-mean-std": lambda s: (s["mean"], s["std"] + 1e-8),
    "lerobot-min-max": _scaled("min", "max", -1e-8),
    "lerobot-quantiles": _scaled("q01", "q99", -1e-8),
    "lerobot-quantiles10": _scaled("q10", "q90", -1e-8),
}
"""Scheme -> (offset, scale) for (x - offset) / scale. A negative epsilon above replaces a width of 0; a positive one is added."""


def normalise(values: np.ndarray, statistics: Statistics, scheme: str) -> np.ndarray:
    """Normalises values [..., D] by a scheme. "openvla" clips to -1..1, except dimensions that the mask excludes."""
    values = np.asarray(values, np.float64)
    if scheme == "openvla":
        s = statistics
        scaled = np.clip(2 * (values - s["q01"]) / (s["q99"] - s["q01"] + 1e-8) - 1, -1, 1)
        return np.where(s["min"] == s["max"], 0.0, np.where(s["mask"], scaled, values))
    offset, scale = _scheme(scheme)(statistics)
    return (values - offset) / scale


def unnormalise(values: np.ndarray, statistics: Statistics, scheme: str) -> np.ndarray:
    """Converts the output [..., D] of a policy with a scheme to the data's units."""
    values = np.asarray(values, np.float64)
    if scheme == "openvla":
        s = statistics
        return np.where(s["mask"], 0.5 * (values + 1) * (s["q99"] - s["q01"]) + s["q01"], values)
    offset, scale = _scheme(scheme)(statistics)
    return values * scale + offset


def _scheme(name: str) -> Callable[[Statistics], tuple[np.ndarray, np.ndarray]]:
    if name not in NORMALISATIONS:
        raise UserError(f"unknown scheme {name!r}", "normalisation", f"use one of openvla, {', '.join(NORMALISATIONS)}")
    return NORMALISATIONS[name]
