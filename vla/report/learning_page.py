"""Writes the page of a comparison of conditions: learning curves, performance profiles and tables, self-contained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vla.report.html import data_address, facts, write_page
from vla.report.learning_comparison import THRESHOLDS, LearningComparison, sentences, tables, verdict
from vla.report.plots import bands


def write_learning(path: Path, comparison: LearningComparison, origin: Mapping[str, Any]) -> Path:
    """Writes the page into an existing folder.

    Args:
        origin: where the comparison comes from, as `provenance` returns it.
    """
    from matplotlib.ticker import EngFormatter

    points = len(comparison.conditions[0].curve[0])
    across = (np.arange(points) + 0.5) * comparison.steps / points
    charts = {
        "Learning curves": bands(
            {one.name: (across, *one.curve) for one in comparison.conditions}, "step", "success rate", EngFormatter(sep="")
        ),
        "Performance profiles": bands(
            {one.name: (THRESHOLDS, one.profile) for one in comparison.conditions}, "area under the curve", "share of runs above"
        ),
    }
    return write_page(
        path,
        "learning.html",
        title=f"Learning on {', '.join(comparison.tasks)}: {comparison.steps:,} steps",
        headline=verdict(comparison),
        sentences=sentences(comparison),
        charts={title: data_address("image/svg+xml", svg.encode()) for title, svg in charts.items()},
        tables=tables(comparison),
        facts=facts(origin),
    )
