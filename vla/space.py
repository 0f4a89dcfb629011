"""A vector space of a robot: names, units and limits of its dimensions, and which values they take."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from vla.errors import ContractMismatch, UserError

TWO_VALUED = 1e-4
"""Relative tolerance, for rounding, of the variance in `Space.two_valued`."""
FAR = 0.5
"""How far a value may be outside its dimension's range before it is reported, as a share of that range."""


@dataclasses.dataclass(frozen=True)
class Space:
    """A vector space: the name, unit and limits of each dimension, in order.

    Attributes:
        constant: the value of a dimension that never varied in the data and decodes to exactly that; None for other dimensions.
        binary: the two values, in order, of a dimension that had no others in the data (a gripper that is open or closed) and
            decodes to one of them; None for other dimensions.
        statistics: mean, std, min, max, q01, q99 per dimension over the training data. They are for people and converters;
            the codec uses low and high.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    constant: tuple[float | None, ...] = ()
    statistics: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    binary: tuple[tuple[float, float] | None, ...] = ()

    def __post_init__(self):
        for field in ("constant", "binary"):
            object.__setattr__(self, field, getattr(self, field) or (None,) * len(self.names))
        for field in ("units", "low", "high", "constant", "binary"):
            if len(getattr(self, field)) != len(self.names):
                raise UserError(f"{field} has {len(getattr(self, field))} entries for {len(self.names)} names", "contract space")
        for name, low, high in zip(self.names, self.low, self.high, strict=True):
            if not (np.isfinite(low) and np.isfinite(high) and low < high):
                raise UserError(f"{name} has limits {low} to {high}", "contract space", "give finite limits with low below high")

    @property
    def size(self) -> int:
        return len(self.names)

    def two_valued(self) -> np.ndarray:
        """Returns which dimensions had only two values in the data, [size] bool; all False without statistics.

        Of all distributions on [min, max] with a given mean, only the one on the two ends has the largest variance,
        (max - mean) (mean - min) (Bhatia and Davis 2000).
        """
        if not {"mean", "std", "min", "max"} <= self.statistics.keys():
            return np.zeros(self.size, bool)
        mean, std, low, high = (np.array(self.statistics[name]) for name in ("mean", "std", "min", "max"))
        return (high > low) & (std**2 >= (1 - TWO_VALUED) * (high - mean) * (mean - low))

    def with_binary(self) -> Space:
        """Returns the space with `binary` filled in from the statistics."""
        low, high = (self.statistics.get(end, ()) for end in ("min", "max"))
        two_valued = self.two_valued() & [c is None for c in self.constant]
        pairs = tuple((low[i] + 0.0, high[i] + 0.0) if two else None for i, two in enumerate(two_valued))
        return dataclasses.replace(self, binary=pairs)

    @functools.cached_property
    def free(self) -> np.ndarray:
        """Which dimensions are neither constant nor binary, [size] bool."""
        return np.array([c is None and b is None for c, b in zip(self.constant, self.binary, strict=True)], bool)

    @functools.cached_property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The two values of each binary dimension, the constant, twice, of a constant one, and the limits of others, [size]."""
        rows = zip(self.constant, self.binary, self.low, self.high, strict=True)
        pairs = [(c, c) if c is not None else b or (low, high) for c, b, low, high in rows]
        lower, upper = np.array(pairs, np.float64).reshape(-1, 2).T
        return lower, upper

    def settled(self, values: np.ndarray) -> np.ndarray:
        """Returns values [..., size] with constant dimensions at their constants, and binary ones at the nearer of their two."""
        lower, upper = self.ends
        return np.where(self.free, values, np.where(values - lower < upper - values, lower, upper))

    @functools.cached_property
    def _far(self) -> list[tuple[str, float, float, float, float]]:
        """Of each dimension: how it is called, its range, and the values beyond which a value is far outside."""
        rows = []
        data = (self.statistics.get("min", self.low), self.statistics.get("max", self.high))
        for name, unit, low, high, least, most in zip(self.names, self.units, self.low, self.high, *data, strict=True):
            low, high = min(low, least), max(high, most)
            far = FAR * (high - low)
            rows.append((f"{name} ({unit})" if unit else name, low, high, low - far, high + far))
        return rows

    def far_outside(self, value: np.ndarray) -> list[str]:
        """Describes the dimensions of a value [size] that are far outside their range, with value and range.

        A dimension's range covers its limits and the data. Far is more than half the range beyond it.
        """
        pairs = zip(value.tolist(), self._far, strict=True)
        return [
            f"{name} is {number:g}, far outside {low:g} to {high:g}"
            for number, (name, low, high, least, most) in pairs
            if not least <= number <= most
        ]

    def check(self, value: np.ndarray, what: str) -> np.ndarray:
        """Returns the value as float64 [..., size]. Raises ContractMismatch for a wrong size or values that are not finite."""
        value = np.asarray(value, np.float64)
        if value.ndim == 0 or value.shape[-1] != self.size:
            raise ContractMismatch(f"{what} has shape {value.shape}, expected {self.size} values: {', '.join(self.names)}")
        # Of few numbers, a list is checked in a fraction of numpy's time.
        if not (all(map(math.isfinite, value.ravel().tolist())) if value.size < 1000 else np.isfinite(value).all()):
            finite = np.isfinite(value).reshape(-1, self.size)
            bad = [name for i, name in enumerate(self.names) if not finite[:, i].all()]
            raise ContractMismatch(f"{what} holds NaN or infinity in {', '.join(bad)}")
        return value
