"""The bars of the main job and whether a report's numbers hold them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Bar:
    """One number of report.json and the limit it is held to.

    Attributes:
        key: dotted path in report.json; "a - b" is a difference of two.
        limit: the bar itself.
        most: True if the value must not exceed the limit, else it must reach it.
        name: for people.
        unit: "%" or "points" for shares, "s", "MiB"; `show` writes s as minutes and MiB as GiB.
    """

    key: str
    limit: float
    most: bool
    name: str
    unit: str = "%"

    def holds(self, value: float) -> bool:
        return value <= self.limit if self.most else value >= self.limit

    def show(self, value: float) -> str:
        """The value or the limit in words."""
        scale, unit = {"%": (100, "%"), "points": (100, "points"), "s": (1 / 60, "min"), "MiB": (1 / 1024, "GiB")}[self.unit]
        # One decimal, or two where one would round to all of it: 0.9998 must not read as 100 %.
        digits = 2 if unit == "%" and 0.9995 <= value < 1 else 1
        return f"{scale * value:.{digits}f}".removesuffix(".0") + f" {unit}"


RATES = (
    Bar("success.rate", 0.80, False, "Success"),
    Bar("wrong_object.rate", 0.05, True, "Wrong object"),
    Bar("swapped_instruction.rate", 0.75, False, "Swapped instruction"),
    Bar("vqa.accuracy", 0.90, False, "Questions answered"),
    Bar("vqa.accuracy - vqa.blank_accuracy", 0.30, False, "Lead over a blank picture", "points"),
    Bar("valid_mass", 0.99, False, "Probability on valid actions"),
    Bar("expert.rate", 0.97, False, "The scripted expert"),
)


def bars(report: Mapping[str, Any]) -> list[Bar]:
    """The bars of this report; the time allowed depends on its number of episodes (the recorded run has 120)."""
    episodes = lookup(report, "success.n") or 0
    minutes = 40 if episodes >= 120 else 25
    return [
        *RATES,
        Bar("seconds.total", 60 * minutes, True, "Time, collection to report", "s"),
        Bar("peak_pss_mib", 8192, True, "Peak memory", "MiB"),
    ]


def check(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{key: {"value", "bar", "holds"}} for every bar whose number the report has: the `bars` of a benchmark's JSON."""
    answer = {}
    for bar in bars(report):
        value = lookup(report, bar.key)
        if value is not None:
            answer[bar.key] = {"value": value, "bar": f"{'<=' if bar.most else '>='} {bar.limit:g}", "holds": bar.holds(value)}
    return answer


def lookup(report: Mapping[str, Any], key: str) -> float | None:
    """The finite number at a dotted path or a difference of two, None where it is not there."""
    if " - " in key:
        one, other = (lookup(report, part) for part in key.split(" - "))
        return None if one is None or other is None else one - other
    value: Any = report
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
