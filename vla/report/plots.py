"""Reads a run's logs and draws learning curves as small SVG charts."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.ticker import Formatter

Metrics = dict[str, tuple[list[float], list[float]]]
"""Metric name -> (steps, values), in the order of the steps."""

Logged = Mapping[str, tuple[Sequence[float], Sequence[float]]]

CHARTS: dict[str, tuple[str, ...]] = {
    "Robot loss": ("*robot*loss*", "*loss*robot*"),
    "Question loss": ("*question*loss*", "*loss*question*", "*vqa*loss*", "*loss*vqa*"),
    "Action-token accuracy": ("*token_acc*", "*action*acc*"),
    "Question accuracy": ("*question*acc*", "*vqa*acc*"),
    "Decoded action error": ("*decoded_error*",),
    "Teacher-forced action error": ("*l1*",),
    "Teacher-forced bin error": ("*bin_error*",),
    "Probability on valid actions": ("*valid_mass*",),
    "Rollout success": ("*rollout*success*", "success", "*/success"),
}
"""Chart title -> patterns of the metrics that it draws, in lower case; a metric goes to the first chart that matches."""

COLOURS = ("#0f766e", "#b4531f", "#4453a8", "#8a3b74")
LINES = ("-", "--", ":")
STYLE: dict[Any, str | float | bool | list[str]] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "vla",
    "axes.edgecolor": "#c4ccd4",
    "axes.labelcolor": "#5a6875",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e6eaee",
    "xtick.color": "#5a6875",
    "ytick.color": "#5a6875",
    "ytick.major.size": 0,
    "xtick.major.size": 3,
}


def read_metrics(folder: str | Path) -> Metrics:
    """Reads every metrics.csv (of Lightning's CSVLogger), or else every TensorBoard event file, below the folder.

    Raises:
        UserError: there are no logs.
    """
    folder, metrics = Path(folder), {}
    for file in sorted(folder.rglob("metrics.csv")):
        _add(metrics, _read_csv(file))
    if not metrics:
        for log_folder in sorted({file.parent for file in folder.rglob("events.out.tfevents.*")}):
            _add(metrics, _read_events(log_folder))
    if not metrics:
        raise UserError("no metrics.csv and no TensorBoard events found", str(folder), "give the folder that the logger wrote")
    for name, points in metrics.items():
        pairs = sorted(zip(*points, strict=True), key=lambda pair: pair[0])
        metrics[name] = ([s for s, _ in pairs], [v for _, v in pairs])
    return metrics


def _add(metrics: Metrics, more: Metrics) -> None:
    for name, (steps, values) in more.items():
        all_steps, all_values = metrics.setdefault(name, ([], []))
        all_steps.extend(steps)
        all_values.extend(values)


def _read_csv(file: Path) -> Metrics:
    metrics: Metrics = {}
    with file.open(newline="") as lines:
        for row in csv.DictReader(lines):
            for name, value in row.items():
                if name not in ("step", "epoch") and value and row.get("step"):
                    steps, values = metrics.setdefault(name, ([], []))
                    steps.append(float(row["step"]))
                    values.append(float(value))
    return metrics


def _read_events(folder: Path) -> Metrics:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: ([float(e.step) for e in events.Scalars(name)], [float(e.value) for e in events.Scalars(name)])
        for name in events.Tags()["scalars"]
    }


def curves(metrics: Logged, charts: Mapping[str, tuple[str, ...]] = CHARTS) -> dict[str, str]:
    """Draws every chart that has a metric with at least two finite points.

    Returns:
        chart title -> SVG text.
    """
    drawn, svgs = set(), {}
    for title, patterns in charts.items():
        names = [n for n in metrics if n not in drawn and any(fnmatch(n.lower(), p) for p in patterns)]
        lines = {name: _finite(*metrics[name]) for name in names}
        lines = {name: points for name, points in lines.items() if len(points[0]) > 1}
        drawn.update(lines)
        if lines:
            svgs[title] = _chart(lines)
    return svgs


def _finite(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    pairs = [(s, v) for s, v in zip(steps, values, strict=True) if math.isfinite(v)]
    return [s for s, _ in pairs], [v for _, v in pairs]


def smooth(values: Sequence[float], span: int) -> list[float]:
    """Returns the exponential moving average over a span of values, corrected for the bias of its start."""
    keep, level, weight, averages = 1 - 2 / (span + 1), 0.0, 0.0, []
    for value in values:
        level, weight = keep * level + (1 - keep) * value, keep * weight + (1 - keep)
        averages.append(level / weight)
    return averages


def _chart(lines: Mapping[str, tuple[list[float], list[float]]]) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6, 2.1), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for (name, (steps, values)), colour in zip(lines.items(), COLOURS * len(lines), strict=False):
            # A long, noisy line is drawn pale with its average on top; a short one with a marker at each point.
            if len(values) > 40:
                axes.plot(steps, values, color=colour, alpha=0.22, linewidth=0.8)
                values = smooth(values, max(3, len(values) // 12))
                axes.plot(steps, values, color=colour, linewidth=1.7, label=name)
            else:
                axes.plot(steps, values, color=colour, linewidth=1.7, marker="o", markersize=3.2, label=name)
        top = max(max(values) for _, values in lines.values())
        low = min(min(values) for _, values in lines.values())
        # Axes start at zero, so that heights can be compared; axes of shares end at one.
        axes.set_ylim(min(0, low), 1.02 if 0.5 < top <= 1 and low >= 0 else None)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("step", loc="right")
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8, handlelength=1.2, labelcolor="#16202b")
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def bands(
    lines: Mapping[str, tuple[Sequence[float] | np.ndarray, ...]],
    x: str,
    y: str,
    formatter: Formatter | None = None,
    size: tuple[float, float] = (7.2, 3.4),
    top: float | None = 1.02,
) -> str:
    """Draws lines, with their bands if they have any, as SVG.

    Args:
        lines: name -> horizontal coordinates and heights, and the lower and the upper limits of the band.
        x, y: labels of the axes.
        formatter: writes the numbers of the horizontal axis.
        size: width and height in inches.
        top: upper end of the vertical axis, which begins at 0; None fits it to the lines.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for number, (name, (across, middle, *band)) in enumerate(lines.items()):
            colour, line = COLOURS[number % len(COLOURS)], LINES[number // len(COLOURS) % len(LINES)]
            axes.plot(across, middle, color=colour, linestyle=line, linewidth=1.7, label=name)
            if band:
                low, high = band
                axes.fill_between(across, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.set_ylim(0, top)
        if formatter is not None:
            axes.xaxis.set_major_formatter(formatter)
        axes.set_xlabel(x, loc="right")
        axes.set_ylabel(y)
        ncols = round(size[0] / 1.8)
        figure.legend(frameon=False, fontsize=8, handlelength=1.6, labelcolor="#16202b", loc="outside upper left", ncols=ncols)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()
