"""The bars that the demo's numbers must reach, and whether they reach them by more than the noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from vla.report.json_values import Json

RECORDED = 120
"""Number of episodes of the recorded run; from this number on, the scripted expert is evaluated too."""


@dataclasses.dataclass(frozen=True)
class Bar:
    """A limit for one number of report.json.

    Attributes:
        key: dotted path of the number in report.json; "a - b" is a difference of two.
        limit: the limit.
        most: True if the number must not exceed the limit, False if it must reach it.
        name: name for display.
        unit: "%" or "points" for shares, "s", "MiB"; `show` converts s to minutes and MiB to GiB.
        rate: dotted path of the object with the number's `n`, `low` and `high`; "" if it has no interval.
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
        """Returns the value or the limit as text with its unit."""
        scale, unit = {"%": (100, "%"), "points": (100, "points"), "s": (1 / 60, "min"), "MiB": (1 / 1024, "GiB")}[self.unit]
        # One decimal, or two if one would round up to the whole: 0.9998 must not read as 100 %.
        digits = 2 if unit == "%" and 0.9995 <= value < 1 else 1
        return f"{scale * value:.{digits}f}".removesuffix(".0") + f" {unit}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A bar with the number that a report has for it.

    Attributes:
        value: the number; None if the report has none, which misses the bar.
        n: number of trials; None if the number has no interval.
        low, high: limits of the 95 % interval; None if the number has none.
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
    def within_noise(self) -> bool:
        """Whether the interval contains the bar: a repetition might end on its other side."""
        if self.value is None or self.low is None or self.high is None:
            return False
        return self.bar.holds(self.low) != self.bar.holds(self.high)

    @property
    def verdict(self) -> str:
        """The verdict: "reached" or "missed", perhaps "within the noise", or "not measured"."""
        if self.value is None:
            return "not measured"
        return ("reached" if self.holds else "missed") + ", within the noise" * self.within_noise

    def __str__(self) -> str:
        """The name, the number with its interval, the bar and the verdict in one line."""
        most, limit = "at most" if self.bar.most else "at least", self.bar.show(self.bar.limit)
        if self.value is None:
            return f"{self.bar.name}: not measured; required: {most} {limit}"
        interval = ""
        if self.low is not None and self.high is not None:
            interval = f" ({self.bar.show(self.low).split()[0]} to {self.bar.show(self.high)}, n = {self.n})"
        return f"{self.bar.name}: {self.bar.show(self.value)}{interval}; required: {most} {limit}: {self.verdict}"


RATES = (
    Bar("success.rate", 0.80, False, "Success", rate="success"),
    Bar("wrong_object.rate", 0.05, True, "Wrong object", rate="wrong_object"),
    Bar("swapped_instruction.rate", 0.75, False, "Swapped instruction", rate="swapped_instruction"),
    Bar("vqa.accuracy", 0.90, False, "Questions answered", rate="vqa"),
    Bar("vqa.accuracy - vqa.blank_accuracy", 0.30, False, "Lead over a blank image", "points", rate="vqa.lead"),
    Bar("valid_mass", 0.99, False, "Probability on valid actions"),
)
EXPERT = Bar("expert.rate", 0.97, False, "The scripted expert", rate="expert")


def bars(report: Mapping[str, Any]) -> list[Bar]:
    """Returns the bars of this report; the recorded run has a longer time limit and a bar for the expert."""
    recorded = (lookup(report, "success.n") or 0) >= RECORDED
    return [
        *RATES,
        *([EXPERT] if recorded or "expert" in report else ()),
        Bar("seconds.total", 60 * (40 if recorded else 25), True, "Time, collection to report", "s"),
        Bar("peak_pss_mib", 8192, True, "Peak memory", "MiB"),
    ]


def outcomes(report: Mapping[str, Any]) -> list[Outcome]:
    """Returns every bar of the report with its number."""
    results = []
    for bar in bars(report):
        n, low, high = (lookup(report, f"{bar.rate}.{name}") if bar.rate else None for name in ("n", "low", "high"))
        results.append(Outcome(bar, lookup(report, bar.key), None if n is None else int(n), low, high))
    return results


def check(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the `bars` of a benchmark's JSON.

    Returns:
        key -> "value" (None if the report has none, which counts as missed), "bar", "holds", "interval" (the limits of the 95 %
        interval, or None) and "verdict" (`Outcome.verdict`).
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
    """Returns the finite number at a dotted path, or the difference of two; None if it is not there."""
    if " - " in key:
        one, other = (lookup(report, part) for part in key.split(" - "))
        return None if one is None or other is None else one - other
    value: Mapping[str, Any] | Json = report
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
