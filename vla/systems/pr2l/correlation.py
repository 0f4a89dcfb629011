"""Correlates the scores of probes with what heads reach in reinforcement learning."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

from vla.promptable.probe import POOLINGS
from vla.report.learning import LearningRun

SCORES = ("answer", *(f"{kind}, {pooling}" for kind in ("present", "place") for pooling in POOLINGS))
"""Names of the scores that `vla rl probe` gives a condition."""
LEAST = 4
"""Number of conditions needed for a correlation."""


def score(probe: Mapping[str, Any], name: str) -> float | None:
    """Returns one of `SCORES` from a result of `probing.probe`; None if it has no such score."""
    kind, _, pooling = name.partition(", ")
    return probe[kind].get(pooling) if pooling else probe[kind]


def mean_areas(runs: Sequence[LearningRun]) -> dict[str, float]:
    """Returns condition -> mean area under the learning curves of its runs."""
    names = dict.fromkeys(run.condition for run in runs)
    return {name: statistics.mean(run.area() for run in runs if run.condition == name) for name in names}


def correlations(probes: Sequence[Mapping[str, Any]], areas: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Returns Spearman's rank correlation of each score with the conditions' areas under the learning curve.

    Args:
        probes: results of `probing.probe`.
        areas: condition -> its area under the learning curve.

    Returns:
        for each score with enough conditions: "rank_correlation", its two-sided "p" and the number of conditions "n".
    """
    results = {}
    for name in SCORES:
        pairs = [(score(one, name), areas[one["condition"]]) for one in probes if one["condition"] in areas]
        known = [pair for pair in pairs if pair[0] is not None]
        if len(known) >= LEAST and all(len({pair[side] for pair in known}) > 1 for side in (0, 1)):
            scores, known_areas = zip(*known, strict=True)
            test: Any = stats.spearmanr(scores, known_areas)
            results[name] = {"rank_correlation": float(test.statistic), "p": float(test.pvalue), "n": len(known)}
    return results
