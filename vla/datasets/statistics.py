"""Statistics of actions and states."""

from __future__ import annotations

import dataclasses

import numpy as np

from vla.errors import UserError
from vla.space import Space

VARIES = 1e-9
"""A dimension whose range is smaller than this is constant."""


def describe(values: np.ndarray) -> dict[str, tuple[float, ...]]:
    """mean, std, min, max, q01, q99 per dimension of values [N, A], in float64; UserError for other shapes or N = 0."""
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not len(values):
        raise UserError(f"values have shape {values.shape}, expected [N, A] with N at least 1", "statistics")
    q01, q99 = np.quantile(values, [0.01, 0.99], axis=0)
    rows = {"mean": values.mean(0), "std": values.std(0), "min": values.min(0), "max": values.max(0), "q01": q01, "q99": q99}
    return {name: tuple(map(float, row)) for name, row in rows.items()}


def space_with_statistics(space: Space, values: np.ndarray) -> Space:
    """The space with the statistics of values [N, A], and with dimensions that do not vary marked as constant.

    Raises:
        UserError: there are no values, they have another length than the space, or one is NaN or infinite.
    """
    statistics = describe(space.check(values, "the data"))
    ends = zip(statistics["min"], statistics["max"], strict=True)
    # Adding zero turns -0.0, which is written differently and would change the contract hash, into 0.0.
    constant = tuple(low + 0.0 if high - low < VARIES else None for low, high in ends)
    return dataclasses.replace(space, statistics=statistics, constant=constant)
