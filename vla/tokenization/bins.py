"""Bins: the values of each dimension <-> integers."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from vla.errors import UserError
from vla.space import Space
from vla.tokenization.base import Malformed

EPSILON = 1e-8
"""What OpenVLA adds to a range before it divides by it."""


class Bins(ABC):
    """Values [..., A] <-> integers 0 to count - 1.

    A clipped value decodes to within half the width of its bin, at the limits too. A constant dimension of the space has one
    legal bin and decodes to exactly its constant; a binary one has two, the first and the last, for its two values.

    Args:
        space: names, limits and constants of the dimensions.
        count: maximum number of bins per dimension.
    """

    def __init__(self, space: Space, count: int):
        if count < 2:
            raise UserError(f"{count} bins", "codec", "give at least 2")
        self.space, self.count = space, count
        self.low, self.high = np.array(space.low, np.float64), np.array(space.high, np.float64)

    @abstractmethod
    def _find(self, values: np.ndarray) -> np.ndarray:
        """The bins of clipped values, before they are truncated to integers."""

    def _clip(self, values: np.ndarray) -> np.ndarray:
        return np.clip(values, self.low, self.high)

    @abstractmethod
    def _centre(self, bins: np.ndarray) -> np.ndarray:
        """The values that bins stand for."""

    def counts(self) -> np.ndarray:
        """The number of bins of each dimension, [A]."""
        return np.full(self.space.size, self.count)

    @functools.cached_property
    def _end_bins(self) -> tuple[np.ndarray, np.ndarray]:
        """The first and the last legal bin of each dimension, [A]; of a constant one, twice the bin of its constant."""
        lower, upper = self.space.ends
        only = self._find(self._clip(lower)).astype(np.int64)
        return np.where(lower < upper, 0, only), np.where(lower < upper, self.counts() - 1, only)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Values [..., A] in physical units -> bins [..., A], int64; values outside the range are clipped.

        Raises:
            ContractMismatch: the number of dimensions differs from the space's, or a value is NaN or infinite.
        """
        values, (first, last) = self.space.settled(self.space.check(values, "the value to encode")), self._end_bins
        ends = np.where(values == self.space.ends[0], first, last)
        return np.where(self.space.free, self._find(self._clip(values)).astype(np.int64), ends)

    def decode(self, bins: np.ndarray) -> np.ndarray:
        """Bins [..., A] -> values [..., A] in physical units, float64. A constant dimension gives its constant, and a binary one
        that of its two values to whose bin the bin is nearer.

        Raises:
            Malformed: a dimension does not have the bin.
            UserError: the bins are not integers, or their number of dimensions differs from the space's.
        """
        bins = np.asarray(bins)
        if bins.dtype.kind not in "iu" or bins.ndim == 0 or bins.shape[-1] != self.space.size:
            raise UserError(f"bins are {bins.dtype} {bins.shape}, expected integers [..., {self.space.size}]", "codec")
        free, (lower, upper), (first, last) = self.space.free, self.space.ends, self._end_bins
        counts = np.where(free, self.counts(), self.count)
        outside = (bins < 0) | (bins >= counts)
        if outside.any():
            *_, d = np.argwhere(outside)[0]
            raise Malformed(f"bin {bins[outside][0]} of {self.space.names[d]} is outside 0 to {counts[d] - 1}", "codec")
        return np.where(free, self._centre(np.where(free, bins, first)), np.where(bins - first < last - bins, lower, upper))

    def legal(self) -> list[np.ndarray]:
        """The legal bins of each dimension, in order."""
        rows = zip(self.space.free, *self._end_bins, strict=True)
        return [np.arange(last + 1) if free else np.unique([first, last]) for free, first, last in rows]


class UniformBins(Bins):
    """Bins of equal width between the limits, decoded to their centres (RT-2, Brohan et al. 2023, section 3.2)."""

    def __init__(self, space: Space, count: int = 256):
        super().__init__(space, count)
        self.width = (self.high - self.low) / count

    def _find(self, values: np.ndarray) -> np.ndarray:
        return np.minimum((values - self.low) / self.width, self.count - 1)

    def _centre(self, bins: np.ndarray) -> np.ndarray:
        return self.low + (bins + 0.5) * self.width


class Levels(Bins):
    """Evenly spaced levels from limit to limit, both included; a value is rounded to the nearest level.

    Language-Table (Lynch et al. 2022; RT-2, section 4.1) has 21 levels, the integers from -10 to 10, and thus an exact middle;
    VLA-0 (Goyal et al. 2025) has 1001.
    """

    def _find(self, values: np.ndarray) -> np.ndarray:
        return np.rint((values - self.low) / (self.high - self.low) * (self.count - 1))

    def _centre(self, bins: np.ndarray) -> np.ndarray:
        return self.low + bins / (self.count - 1) * (self.high - self.low)


class QuantileBins(Bins):
    """Bins between quantiles of the data, narrow where values are frequent; decoded to their centres.

    A frequent value has a bin of width 0, so it decodes exactly: zero, or the two states of a gripper.

    Args:
        edges: rising edges per dimension, from the lower to the upper limit; two equal edges are a bin of width 0.
    """

    def __init__(self, space: Space, edges: Sequence[Sequence[float]]):
        self.edges = [np.array(row, np.float64) for row in edges]
        super().__init__(space, max(2, *(len(row) - 1 for row in self.edges)))
        ends = zip(self.edges, self.low, self.high, strict=False)
        if len(self.edges) != space.size or any((np.diff(e) < 0).any() or (e[0], e[-1]) != (a, b) for e, a, b in ends):
            raise UserError("the edges are not rising from limit to limit", "contract codec_args.edges", "fit them again")
        self._middles = np.zeros((space.size, self.count))
        for row, edge in zip(self._middles, self.edges, strict=True):
            row[: len(edge) - 1] = (edge[:-1] + edge[1:]) / 2

    @staticmethod
    def fit(space: Space, values: np.ndarray, count: int = 256) -> list[list[float]]:
        """The edges for values [N, A]: at most `count` bins, from limit to limit.

        A value more frequent than four average bins gets a bin of width 0. The other values are divided evenly.
        """
        values = np.clip(space.check(values, "the data"), space.low, space.high)
        rows = []
        for column, low, high in zip(values.T, space.low, space.high, strict=True):
            different, times = np.unique(column, return_counts=True)
            own = different[times > max(1, 4 * len(column) / count)]
            rest = column[~np.isin(column, own)]
            inner = np.quantile(rest, np.linspace(0, 1, count - 1 - 2 * len(own))) if len(rest) else []
            edges = np.sort(np.concatenate([[low, high], inner, own, own]))
            # Two equal edges make a bin; more are redundant.
            rows.append(edges[np.append([True, True], edges[2:] != edges[:-2])].tolist())
        return rows

    def counts(self) -> np.ndarray:
        return np.array([len(edge) - 1 for edge in self.edges])

    def _find(self, values: np.ndarray) -> np.ndarray:
        columns = zip(self.edges, np.moveaxis(values, -1, 0), strict=True)
        return np.stack([_bins_of(edge, column) for edge, column in columns], -1)

    def _centre(self, bins: np.ndarray) -> np.ndarray:
        return self._middles[np.arange(self.space.size), bins]


def _bins_of(edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    first, after = np.searchsorted(edges, values, side="left"), np.searchsorted(edges, values, side="right")
    # A double edge is a bin of width 0. Otherwise the bin ends at the first edge that is not below the value.
    return np.where(after - first > 1, first, np.maximum(first - 1, 0))


class OpenVLABins(Bins):
    """OpenVLA's bins: 256 edges from -1 to 1 after scaling by q01 and q99, so 255 centres (prismatic/vla/action_tokenizer.py).

    Bin b is OpenVLA's token id 32000 - 1 - b. The 256th bin contains only the value 1 and shares the centre of the 255th.

    Args:
        space: a space with statistics q01 and q99.
        raw: names of dimensions that are not scaled (OpenVLA's `mask` is False), with a range from -1 to 1.
    """

    def __init__(self, space: Space, raw: Sequence[str] = ()):
        super().__init__(space, 256)
        unknown = set(raw) - set(space.names)
        if unknown or not {"q01", "q99"} <= space.statistics.keys():
            problem = f"no dimension {', '.join(sorted(unknown))}" if unknown else "no statistics q01 and q99"
            raise UserError(
                problem, "codec openvla", f"the space has {', '.join(space.names)}; the card of a data set has statistics"
            )
        self.raw = np.isin(space.names, list(raw))
        self.low, self.high = np.where(self.raw, -1.0, space.statistics["q01"]), np.where(self.raw, 1.0, space.statistics["q99"])
        # OpenVLA trains 0, the middle, for a dimension that never varied.
        least, most = (space.statistics.get(end, (np.nan,)) for end in ("min", "max"))
        self.still = space.free & np.equal(least, most)
        self.edges = np.linspace(-1, 1, 256)
        self.centres = (self.edges[:-1] + self.edges[1:]) / 2

    def _clip(self, values: np.ndarray) -> np.ndarray:
        # Clipping follows scaling: a value above q99 is then exactly 1, and q99 itself a little less.
        return values

    def _find(self, values: np.ndarray) -> np.ndarray:
        scaled = 2 * (values - self.low) / (self.high - self.low + EPSILON) - 1
        scaled = np.where(self.still, 0, np.where(self.raw, values, scaled))
        return np.digitize(np.clip(scaled, -1, 1), self.edges) - 1

    def _centre(self, bins: np.ndarray) -> np.ndarray:
        centres = self.centres[np.minimum(bins, len(self.centres) - 1)]
        return np.where(self.raw, centres, 0.5 * (centres + 1) * (self.high - self.low) + self.low)
