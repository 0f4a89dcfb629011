"""Statistics of values that do not fit in memory: in chunks and constant memory, with exact quantiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

Chunks = Callable[[], Iterator[np.ndarray]]


def summary(chunks: Chunks) -> dict[str, tuple[float, ...]]:
    """mean, std, min, max, q01, q99 per dimension of float32 chunks [N, D], in three passes.

    The quantiles equal those of `numpy.quantile` of all values in float64 (linear interpolation).
    """
    count, mean, squares, low, high = 0, 0.0, 0.0, np.inf, -np.inf
    for chunk in chunks():
        if not len(chunk):
            count, mean, squares = count, mean + np.zeros(chunk.shape[1]), squares + np.zeros(chunk.shape[1])
            continue
        values = chunk.astype(np.float64)
        chunk_mean, n = values.mean(0), len(values)
        # Chan, Golub, LeVeque 1979: combines sums of squares about the means.
        difference = chunk_mean - mean
        squares = squares + ((values - chunk_mean) ** 2).sum(0) + difference**2 * (count * n / (count + n))
        mean = mean + difference * (n / (count + n))
        low, high, count = np.minimum(low, values.min(0)), np.maximum(high, values.max(0)), count + n
    q01, q99 = quantiles(chunks, (0.01, 0.99), count)
    rows = {"mean": mean, "std": np.sqrt(np.asarray(squares) / max(count, 1)), "min": low, "max": high, "q01": q01, "q99": q99}
    return {name: tuple(float(v) + 0.0 for v in np.atleast_1d(row)) for name, row in rows.items()}


def quantiles(chunks: Chunks, shares: Iterable[float], count: int) -> list[np.ndarray]:
    """Quantiles [D] of `count` float32 values per dimension, by counting bit patterns: the high halves, then the low halves."""
    positions = [share * (count - 1) for share in shares]
    ranks = sorted({min(int(p) + k, count - 1) for p in positions for k in (0, 1)})
    ranked = _ranked(chunks, ranks)
    rows = []
    for position in positions:
        low, high = ranked[int(position)], ranked[min(int(position) + 1, count - 1)]
        fraction = position - int(position)
        # Like numpy, interpolates from the nearer end.
        rows.append(high - (high - low) * (1 - fraction) if fraction >= 0.5 else low + (high - low) * fraction)
    return rows


def _ranked(chunks: Chunks, ranks: list[int]) -> dict[int, np.ndarray]:
    """The values [D] at these ranks of each sorted dimension."""
    coarse: list[np.ndarray] | None = None
    for chunk in chunks():
        codes = _codes(chunk)
        coarse = coarse or [np.zeros(1 << 16, np.int64) for _ in range(codes.shape[1])]
        for counts, column in zip(coarse, codes.T, strict=True):
            counts += np.bincount(column >> np.uint32(16), minlength=1 << 16)
    assert coarse is not None
    sums = [np.cumsum(counts) for counts in coarse]
    high_halves = [{rank: int(np.searchsorted(total, rank, side="right")) for rank in ranks} for total in sums]
    fine = [{high: np.zeros(1 << 16, np.int64) for high in set(halves.values())} for halves in high_halves]
    for chunk in chunks():
        for tables, column in zip(fine, _codes(chunk).T, strict=True):
            top = column >> np.uint32(16)
            for high, counts in tables.items():
                counts += np.bincount(column[top == high] & np.uint32(0xFFFF), minlength=1 << 16)
    values = {rank: np.zeros(len(coarse)) for rank in ranks}
    for d, (total, halves, tables) in enumerate(zip(sums, high_halves, fine, strict=True)):
        for rank, high in halves.items():
            before = int(total[high - 1]) if high else 0
            low = int(np.searchsorted(np.cumsum(tables[high]), rank - before, side="right"))
            values[rank][d] = _value(high << 16 | low)
    return values


def _codes(chunk: np.ndarray) -> np.ndarray:
    """float32 -> uint32 in the same order."""
    bits = np.ascontiguousarray(chunk, np.float32).view(np.uint32)
    return np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(1 << 31))


def _value(code: int) -> float:
    bits = code & 0x7FFFFFFF if code >> 31 else ~code & 0xFFFFFFFF
    return float(np.array(bits, np.uint32).view(np.float32))
