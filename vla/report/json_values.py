"""Values as JSON holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]


def finite(data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the data with None for every float that is not finite: JSON has no NaN and no infinity. Tuples become lists."""
    return {key: _finite(value) for key, value in data.items()}


def _finite(value: Json | tuple[Json, ...]) -> Json:
    if isinstance(value, Mapping):
        return finite(value)
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
