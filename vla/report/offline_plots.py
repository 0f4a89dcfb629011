"""Charts of decoded actions over demonstrated ones."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np

from vla.report.plots import COLOURS, STYLE

POLICY, DEMONSTRATED = COLOURS[1], COLOURS[0]
WIDTH, ROW = 5.6, 1.0


def action_chart(demonstrated: np.ndarray, decoded: np.ndarray, names: Sequence[str], units: Sequence[str]) -> str:
    """Draws a chart per dimension: the demonstrated actions [T, A] and the decoded ones, as SVG text."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, ROW * len(names) + 0.4), layout="constrained")
        _draw(figure, demonstrated, decoded, names, units)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def action_frames(
    demonstrated: np.ndarray, decoded: np.ndarray, names: Sequence[str], units: Sequence[str]
) -> Callable[[int], np.ndarray]:
    """Draws the same chart as pixels. Returns a function of the step: the chart with a line there, uint8 [H, W, 3]."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, ROW * len(names) + 0.4), layout="constrained", dpi=92)
        canvas = FigureCanvasAgg(figure)
        _draw(figure, demonstrated, decoded, names, units)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
        axes = figure.axes[0]
        ends = axes.transData.transform([(0, 0), (1, 0)])[:, 0]
        box = (figure.axes[-1].get_window_extent(), axes.get_window_extent())
    top, bottom = round(pixels.shape[0] - box[1].y1), round(pixels.shape[0] - box[0].y0)

    def at(step: int) -> np.ndarray:
        frame = pixels.copy()
        column = round(ends[0] + step * (ends[1] - ends[0]))
        frame[top:bottom, column : column + 2] = (90, 104, 117)
        return frame

    return at


def _draw(figure, demonstrated: np.ndarray, decoded: np.ndarray, names: Sequence[str], units: Sequence[str]) -> None:
    axes = np.atleast_1d(figure.subplots(len(names), 1, sharex=True))
    steps = np.arange(len(demonstrated))
    for i, axis in enumerate(axes):
        axis.plot(steps, demonstrated[:, i], color=DEMONSTRATED, linewidth=1.4, label="demonstrated")
        axis.plot(steps, decoded[:, i], color=POLICY, linewidth=1.2, linestyle=(0, (3, 1.2)), label="decoded")
        axis.set_title(f"{names[i]} ({units[i]})" if units[i] not in ("", "1") else names[i], loc="left", fontsize=8, pad=2)
        axis.margins(x=0.01)
    axes[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=8, borderaxespad=0)
    axes[-1].set_xlabel("step")
