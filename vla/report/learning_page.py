"""Writes the page of a comparison of conditions: learning curves, performance profiles and tables, self-contained."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vla.report.html import data_address, facts, write_page
from vla.report.learning_comparison import THRESHOLDS, LearningComparison, sentences, tables, verdict
from vla.report.plots import COLOURS, STYLE

if TYPE_CHECKING:
    from matplotlib.ticker import Formatter

LINES = ("-", "--", ":")


def write_learning(path: Path, comparison: LearningComparison, origin: Mapping[str, Any]) -> Path:
    """Writes the page into an existing folder.

    Args:
        origin: where the comparison comes from, as `provenance` returns it.
    """
    from matplotlib.ticker import EngFormatter

    charts = {
        "Learning curves": _chart(
            {one.name: tuple(one.curve) for one in comparison.conditions},
            (np.arange(len(comparison.conditions[0].curve[0])) + 0.5) * comparison.steps / len(comparison.conditions[0].curve[0]),
            "step",
            "success rate",
            EngFormatter(sep=""),
        ),
        "Performance profiles": _chart(
            {one.name: (one.profile,) for one in comparison.conditions}, THRESHOLDS, "area under the curve", "share of runs above"
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


def _chart(
    lines: Mapping[str, tuple[list[float], ...]], across: np.ndarray, x: str, y: str, formatter: Formatter | None = None
) -> str:
    """Draws lines, with their bands if they have any, as SVG.

    Args:
        lines: name -> heights, or heights with the lower and the upper limit of the band.
        across: horizontal coordinates.
        x, y: labels of the axes.
        formatter: writes the numbers of the horizontal axis.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for number, (name, (middle, *band)) in enumerate(lines.items()):
            colour, line = COLOURS[number % len(COLOURS)], LINES[number // len(COLOURS) % len(LINES)]
            axes.plot(across, middle, color=colour, linestyle=line, linewidth=1.7, label=name)
            if band:
                low, high = band
                axes.fill_between(across, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.set_ylim(0, 1.02)
        if formatter is not None:
            axes.xaxis.set_major_formatter(formatter)
        axes.set_xlabel(x, loc="right")
        axes.set_ylabel(y)
        figure.legend(frameon=False, fontsize=8, handlelength=1.6, labelcolor="#16202b", loc="outside upper left", ncols=4)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()
