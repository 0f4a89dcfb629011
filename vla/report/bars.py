"""The bars of the main job, whether a report's numbers hold them, and by more than the noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

RECORDED = 120
"""Episodes of the recorded run; with as many the scripted expert is evaluated too."""


@dataclasses.dataclass(frozen=True)
class Bar:
    """One number of report.json and the limit it is held to.

    Attributes:
        key: dotted path in report.json; "a - b" is a difference of two.
        limit: the bar itself.
        most: True if the value must not exceed the limit, else it must reach it.
        name: for people.
        unit: "%" or "points" for shares, "s", "MiB"; `show` writes s as minutes and MiB as GiB.
        rate: dotted path of what has the number's `n`, `low` and `high`; "" where it has no interval.
    """

    key: str
    limit: float
    most: bool
    name: str
    unit: str = "%"
    rate: str = ""

    def holds(self, value: float) -> bool:
        return value <= self.limit if self.most else value >= self.limit

    def show(self, value: float) -> str:
        """The value or the limit in words."""
        scale, unit = {"%": (100, "%"), "points": (100, "points"), "s": (1 / 60, "min"), "MiB": (1 / 1024, "GiB")}[self.unit]
        # One decimal, or two where one would round to all of it: 0.9998 must not read as 100 %.
        digits = 2 if unit == "%" and 0.9995 <= value < 1 else 1
        return f"{scale * value:.{digits}f}".removesuffix(".0") + f" {unit}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A bar and what a report has for it.

    Attributes:
        value: None where the report has none; that misses the bar.
        n: of how many, None where the number has no interval.
        low, high: the 95 % interval, None where the number has none.
    """

    bar: Bar
    value: float | None
    n: int | None
    low: float | None
    high: float | None

    @property
    def holds(self) -> bool:
        return self.value is not None and self.bar.holds(self.value)

    @property
    def noise(self) -> bool:
        """Whether the interval reaches across the bar: the same again might come out on its other side."""
        if self.value is None or self.low is None or self.high is None:
            return False
        return self.bar.holds(self.low) != self.bar.holds(self.high)

    @property
    def verdict(self) -> str:
        """reached, missed, either of them "within the noise", or not measured."""
        if self.value is None:
            return "not measured"
        return ("reached" if self.holds else "missed") + ", within the noise" * self.noise

    def __str__(self) -> str:
        """The name, the number with its interval, the bar and the verdict, in words."""
        most, limit = "at most" if self.bar.most else "at least", self.bar.show(self.bar.limit)
        if self.value is None:
            return f"{self.bar.name}: not measured, {most} {limit} was wanted"
        interval = ""
        if self.low is not None and self.high is not None:
            interval = f" ({self.bar.show(self.low).split()[0]} to {self.bar.show(self.high)}, n = {self.n})"
        return f"{self.bar.name}: {self.bar.show(self.value)}{interval}, {most} {limit} was wanted: {self.verdict}"


RATES = (
    Bar("success.rate", 0.80, False, "Success", rate="success"),
    Bar("wrong_object.rate", 0.05, True, "Wrong object", rate="wrong_object"),
    Bar("swapped_instruction.rate", 0.75, False, "Swapped instruction", rate="swapped_instruction"),
    Bar("vqa.accuracy", 0.90, False, "Questions answered", rate="vqa"),
    Bar("vqa.accuracy - vqa.blank_accuracy", 0.30, False, "Lead over a blank picture", "points", rate="vqa.lead"),
    Bar("valid_mass", 0.99, False, "Probability on valid actions"),
)
EXPERT = Bar("expert.rate", 0.97, False, "The scripted expert", rate="expert")


def bars(report: Mapping[str, Any]) -> list[Bar]:
    """The bars of this report; the recorded run has another time allowed and the expert's bar besides."""
    recorded = (lookup(report, "success.n") or 0) >= RECORDED
    return [
        *RATES,
        *([EXPERT] if recorded or "expert" in report else ()),
        Bar("seconds.total", 60 * (40 if recorded else 25), True, "Time, collection to report", "s"),
        Bar("peak_pss_mib", 8192, True, "Peak memory", "MiB"),
    ]


def outcomes(report: Mapping[str, Any]) -> list[Outcome]:
    """Every bar of the report with its number."""
    found = []
    for bar in bars(report):
        n, low, high = (lookup(report, f"{bar.rate}.{name}") if bar.rate else None for name in ("n", "low", "high"))
        found.append(Outcome(bar, lookup(report, bar.key), None if n is None else int(n), low, high))
    return found


def check(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The `bars` of a benchmark's JSON.

    Returns:
        key -> "value" (None where the report has none: it then counts as missed), "bar", "holds", "interval" (None, or the limits
        of the 95 % one) and "verdict", in words.
    """
    return {
        o.bar.key: {
            "value": o.value,
            "bar": f"{'<=' if o.bar.most else '>='} {o.bar.limit:g}",
            "holds": o.holds,
            "interval": None if o.low is None or o.high is None else [o.low, o.high],
            "verdict": o.verdict,
        }
        for o in outcomes(report)
    }


def lookup(report: Mapping[str, Any], key: str) -> float | None:
    """The finite number at a dotted path or a difference of two, None where it is not there."""
    if " - " in key:
        one, other = (lookup(report, part) for part in key.split(" - "))
        return None if one is None or other is None else one - other
    value: Any = report
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
