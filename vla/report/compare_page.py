"""Writes compare.html: a comparison on one self-contained page."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla.report.comparison import Comparison, PairResult
from vla.report.html import data_address, facts, track_percent, write_page
from vla.report.intervals import percent
from vla.report.plots import COLOURS, STYLE
from vla.report.wording import level_of, points, sentences, span, tables, verdict

DRAWN = 8
"""Number of pairs that one chart can show: four colours, solid and dashed."""


def write_comparison(path: Path, comparison: Comparison, origin: Mapping[str, Any]) -> Path:
    """Writes the page into an existing folder.

    Args:
        origin: where the comparison comes from, as `provenance` returns it.
    """
    return write_page(
        path,
        "compare.html",
        title=f"Comparison on {comparison.suite}: {comparison.episodes} paired episodes",
        # A no-break space keeps a rank and its name on one line.
        headline=verdict(comparison).replace(". ", ".\u00a0"),
        sentences=sentences(comparison),
        level=level_of(comparison),
        policies=[
            {
                "name": p.name,
                "letters": p.letters,
                "value": f"{percent(p.success.rate)} %",
                "at": track_percent(p.success.rate),
                "low": track_percent(p.success.low),
                "high": track_percent(p.success.high),
                "interval": f"{percent(p.success.low)} to {percent(p.success.high)} %, n = {p.success.n}",
            }
            for p in sorted(comparison.policies, key=lambda p: -p.success.rate)
        ],
        pairs=[_track(p) for p in comparison.pairs],
        tables=tables(comparison)[1:],
        evidence=data_address("image/svg+xml", evidence(comparison.pairs, comparison.alpha).encode()),
        hidden=max(0, len(comparison.pairs) - DRAWN),
        records={p.name: p.source or p.policy for p in comparison.policies},
        facts={
            "Suite": f"{comparison.suite}, {comparison.suite_hash}",
            **comparison.settings.facts(),
            **facts(origin),
        },
    )


def _track(p: PairResult) -> dict[str, Any]:
    """Returns a difference as a row with a track from -100 to +100 points."""
    d = p.difference
    return {
        "name": f"{p.first} – {p.second}",
        "value": points(d),
        "at": track_percent((1 + d.rate) / 2),
        "low": track_percent((1 + d.low) / 2),
        "high": track_percent((1 + d.high) / 2),
        "interval": span(d),
        "separated": p.separated,
    }


def evidence(pairs: Sequence[PairResult], alpha: float) -> str:
    """Returns an SVG chart of the e-values over the episodes, with the threshold at which the test may stop."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.8), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        styles = itertools.product(("-", "--"), COLOURS)
        for p, (line, colour) in zip(pairs, styles, strict=False):
            path = [0.0, *p.sequential.log10_e]
            axes.step(range(len(path)), path, where="post", color=colour, linestyle=line, label=f"{p.first} – {p.second}")
            if p.sequential.stop:
                axes.plot(p.sequential.stop, path[p.sequential.stop], "o", color=colour, markersize=5)
        stop = math.log10(len(pairs) / alpha)
        axes.axhline(stop, color="#5a6875", linewidth=1, linestyle=":")
        axes.annotate("may stop", (0, stop), ha="left", va="bottom", color="#5a6875")
        lowest = min(min(p.sequential.log10_e) for p in pairs)
        highest = max(max(p.sequential.log10_e) for p in pairs)
        # Far above the threshold nothing is left to decide.
        axes.set_ylim(min(-0.3, lowest) - 0.1, min(max(stop, highest), stop + 2) + 0.35)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{10**value:g}" if -3 <= value <= 4 else f"1e{value:.0f}"))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("episodes", loc="right")
        axes.set_ylabel("evidence (e-value)")
        if len(pairs) > 1:
            figure.legend(frameon=False, fontsize=8, handlelength=1.6, labelcolor="#16202b", loc="outside upper left", ncols=4)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()
