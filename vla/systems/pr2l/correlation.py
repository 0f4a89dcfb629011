"""Whether the scores of probes before training predict what heads then reach."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

from vla.promptable.probe import POOLINGS
from vla.report.learning import LearningRun

SCORES = ("answer", *(f"{kind}, {pooling}" for kind in ("present", "place") for pooling in POOLINGS))
"""The scores that `vla rl probe` gives a condition."""
LEAST = 4
"""Conditions needed for a correlation."""


def score(probed: Mapping[str, Any], name: str) -> float | None:
    """One of `SCORES` of a result of `probing.probe`; None where it has none."""
    kind, _, pooling = name.partition(", ")
    return probed[kind].get(pooling) if pooling else probed[kind]


def reached(runs: Sequence[LearningRun]) -> dict[str, float]:
    """Condition -> mean area under the learning curve of its runs."""
    names = dict.fromkeys(run.condition for run in runs)
    return {name: statistics.mean(run.area() for run in runs if run.condition == name) for name in names}


def correlations(probes: Sequence[Mapping[str, Any]], areas: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Spearman's rank correlation of each score with what the conditions reached in reinforcement learning.

    Args:
        probes: as `probing.probe` gives them.
        areas: condition -> its area under the learning curve.

    Returns:
        for each score with enough conditions: "rank_correlation", its two-sided "p" and how many conditions ("n").
    """
    results = {}
    for name in SCORES:
        pairs = [(score(one, name), areas[one["condition"]]) for one in probes if one["condition"] in areas]
        known = [pair for pair in pairs if pair[0] is not None]
        if len(known) >= LEAST and all(len({pair[side] for pair in known}) > 1 for side in (0, 1)):
            scores, reached = zip(*known, strict=True)
            test: Any = stats.spearmanr(scores, reached)
            results[name] = {"rank_correlation": float(test.statistic), "p": float(test.pvalue), "n": len(known)}
    return results
