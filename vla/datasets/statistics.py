"""Statistics of actions and states, and what they make of a space."""

from __future__ import annotations

import dataclasses

import numpy as np

from vla.contract import Space
from vla.errors import UserError

VARIES = 1e-9


def describe(values: np.ndarray) -> dict[str, tuple[float, ...]]:
    """mean, std, min, max, q01, q99 per dimension of values [N, A], in float64; UserError for none at all."""
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not len(values):
        raise UserError(f"values have shape {values.shape}, expected [N, A] with N at least 1", "statistics")
    q01, q99 = np.quantile(values, [0.01, 0.99], axis=0)
    found = {"mean": values.mean(0), "std": values.std(0), "min": values.min(0), "max": values.max(0), "q01": q01, "q99": q99}
    return {name: tuple(map(float, row)) for name, row in found.items()}


def space_with_statistics(space: Space, values: np.ndarray) -> Space:
    """The space with the statistics of values [N, A] filled in, and with the dimensions marked that never vary in them.

    Raises:
        UserError: no values, another length than the space's, NaN or infinity.
    """
    statistics = describe(space.check(values, "the data"))
    ends = zip(statistics["min"], statistics["max"], strict=True)
    # Adding zero turns -0.0 into 0.0: they are written differently and would give another contract hash.
    constant = tuple(low + 0.0 if high - low < VARIES else None for low, high in ends)
    return dataclasses.replace(space, statistics=statistics, constant=constant)
