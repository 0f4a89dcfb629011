"""Statistics and normalisation as OpenVLA, openpi and LeRobot define them, each by its name; streaming, an episode at a time.

They differ. OpenVLA takes exact quantiles of all steps. openpi takes those of a histogram of 5000 bins that grows with the range,
and loses what is in its lowest bin when it grows ("openpi-padded" is the corrected one). LeRobot takes the outermost of the
episodes' own, earlier their mean by length ("lerobot-mean").
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
    """mean, std, min, max, q01, q99 of all steps, and mask: the dimensions that are normalised (prismatic, data_utils)."""
    found = {name: np.array(row) for name, row in summary(chunks).items()}
    size = len(found["mean"])
    return {**found, "mask": np.ones(size, bool) if normalised is None else np.array(normalised, bool)}


class Histogram:
    """Counts of values per dimension in BINS even bins between the smallest and largest so far (openpi, shared/normalize).

    Args:
        padded: whether a range that has grown is a little wider than its values, as the first one is.
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
        """What is in a bin goes to the bin where its left edge is now."""
        for d, old in enumerate(self.edges):
            self.edges[d] = _edges(self.low[d], self.high[d], 1e-10 if self.padded else 0.0)
            self.counts[d] = np.histogram(old[:-1], bins=self.edges[d], weights=self.counts[d])[0]

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(np.maximum(0, self.square - self.mean**2))

    def quantile(self, share: float, within: bool = False) -> np.ndarray:
        """[D] the left edge of the bin that holds the share; `within` goes on into the bin, as LeRobot does."""
        found = []
        for counts, edges in zip(self.counts, self.edges, strict=True):
            total = np.cumsum(counts)
            bin_ = int(np.searchsorted(total, share * self.count))
            value = edges[min(bin_, BINS)]
            if within and 0 < bin_ < BINS and counts[bin_]:
                value += (share * self.count - total[bin_ - 1]) / counts[bin_] * (edges[bin_ + 1] - edges[bin_])
            found.append(value)
        return np.array(found)


def _edges(low: float, high: float, beyond: float = 1e-10) -> np.ndarray:
    return np.linspace(low - beyond, high + beyond, BINS + 1)


def openpi(batches: Iterable[np.ndarray], padded: bool = False) -> Statistics:
    """mean, std, q01, q99 of batches [N, D] (openpi, scripts/compute_norm_stats); their order changes the quantiles a little."""
    found = Histogram(padded)
    for batch in batches:
        if len(batch):
            found.update(batch)
    if found.count < 2:
        raise UserError(f"{found.count} values", "openpi statistics", "at least 2 are needed")
    return {"mean": found.mean, "std": found.std, "q01": found.quantile(0.01), "q99": found.quantile(0.99)}


def lerobot_episode(values: np.ndarray) -> Statistics:
    """min, max, mean, std, count and five quantiles of one episode's values [N, D] (lerobot, datasets/compute_stats)."""
    values = np.asarray(values, np.float64)
    common = {"min": values.min(0), "max": values.max(0), "count": np.array([len(values)])}
    if len(values) < 2:
        mean = values.mean(0)
        return {**common, "mean": mean, "std": values.std(0), **{name: mean.copy() for name in LEROBOT}}
    found = Histogram()
    found.update(values)
    return {**common, "mean": found.mean, "std": found.std, **{k: found.quantile(q, within=True) for k, q in LEROBOT.items()}}


def lerobot(episodes: Iterable[Statistics], weighted: bool = False) -> Statistics:
    """Episodes' statistics put together. A quantile is the smallest of the episodes' (up to the median) or the largest (above
    it); with `weighted` their mean by length."""
    count, mean, square, low, high = 0, 0.0, 0.0, np.inf, -np.inf
    quantiles: dict[str, Any] = {
        name: 0.0 if weighted else np.inf if share <= 0.5 else -np.inf for name, share in LEROBOT.items()
    }
    for one in episodes:
        n = int(one["count"][0])
        apart = one["mean"] - mean
        square = square + one["std"] ** 2 * n + apart**2 * (count * n / (count + n))
        mean = mean + apart * (n / (count + n))
        for name, share in LEROBOT.items():
            before = quantiles[name]
            outer = (np.minimum if share <= 0.5 else np.maximum)(before, one[name])
            quantiles[name] = before + (one[name] - before) * (n / (count + n)) if weighted else outer
        low, high, count = np.minimum(low, one["min"]), np.maximum(high, one["max"]), count + n
    if not count:
        raise UserError("no episodes", "lerobot statistics")
    found = {"min": low, "max": high, "mean": mean, "std": np.sqrt(square / count), **quantiles}
    return {**{name: np.asarray(value) for name, value in found.items()}, "count": np.array([count])}


def _scaled(low: str, high: str, epsilon: float) -> Callable[[Statistics], tuple[np.ndarray, np.ndarray]]:
    """Middle and half width of a range that becomes -1 to 1."""

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
"""Name -> (offset, scale): (x - offset) / scale. A negative epsilon above takes the place of a width of 0 only."""


def normalise(values: np.ndarray, statistics: Statistics, scheme: str) -> np.ndarray:
    """Values [..., D] as a policy of that scheme is trained on them; "openvla" clips to -1..1 and leaves masked dimensions."""
    values = np.asarray(values, np.float64)
    if scheme == "openvla":
        s = statistics
        scaled = np.clip(2 * (values - s["q01"]) / (s["q99"] - s["q01"] + 1e-8) - 1, -1, 1)
        return np.where(s["min"] == s["max"], 0.0, np.where(s["mask"], scaled, values))
    offset, scale = _scheme(scheme)(statistics)
    return (values - offset) / scale


def unnormalise(values: np.ndarray, statistics: Statistics, scheme: str) -> np.ndarray:
    """What a policy of that scheme says [..., D], in the data's units."""
    values = np.asarray(values, np.float64)
    if scheme == "openvla":
        s = statistics
        return np.where(s["mask"], 0.5 * (values + 1) * (s["q99"] - s["q01"]) + s["q01"], values)
    offset, scale = _scheme(scheme)(statistics)
    return values * scale + offset


def _scheme(name: str) -> Callable[[Statistics], tuple[np.ndarray, np.ndarray]]:
    if name not in NORMALISATIONS:
        raise UserError(f"unknown scheme {name!r}", "normalisation", f"one of openvla, {', '.join(NORMALISATIONS)}")
    return NORMALISATIONS[name]
