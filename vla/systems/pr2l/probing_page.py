"""Writes the page of the probes: their scores, and each condition's states by two principal components, coloured by the truth."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vla.report.html import data_address, facts, write_page
from vla.report.plots import COLOURS, STYLE
from vla.report.wording import Table

COLUMNS = 7
"""Number of columns of a view of BabyAI."""


def principal(vectors: torch.Tensor) -> tuple[torch.Tensor, list[float]]:
    """Returns the first two principal components [N, 2] of vectors [N, F], and their shares of the variance."""
    centred = vectors - vectors.mean(0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    return u[:, :2] * s[:2], (s.square() / s.square().sum().clamp_min(1e-12))[:2].tolist()


def write_probes(
    path: Path,
    table: Table,
    sentences: Sequence[str],
    states: Mapping[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    origin: Mapping[str, Any],
) -> Path:
    """Writes the page; creates its folder if it does not exist.

    Args:
        table: the scores.
        sentences: shown at the top.
        states: condition -> vectors [N, F], whether the goal is in view [N], and its column and row [N, 2].
        origin: where the scores come from, as `provenance` returns it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_page(
        path,
        "learning.html",
        title="Probes of prompted states",
        headline="What the states reveal about the goal",
        sentences=sentences,
        charts={name: data_address("image/svg+xml", _chart(*one).encode()) for name, one in states.items()},
        tables=[table],
        facts=facts(origin),
    )


def _chart(vectors: torch.Tensor, visible: torch.Tensor, cell: torch.Tensor) -> str:
    """Draws the states as SVG: on the left coloured by whether the goal is in view, on the right by its column."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    components, shares = principal(vectors)
    points, in_view, columns = components.numpy(), visible.bool().numpy(), cell[:, 0].numpy()
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(7.2, 3.0), layout="constrained", dpi=150)
        FigureCanvasSVG(figure)
        left, right = figure.subplots(1, 2, sharex=True, sharey=True)
        dots: dict[str, Any] = {"s": 7, "linewidths": 0, "alpha": 0.7, "rasterized": True}
        for colour, mask, name in zip(COLOURS, (in_view, ~in_view), ("in view", "not in view"), strict=False):
            left.scatter(*points[mask].T, color=colour, label=name, **dots)
        left.legend(frameon=False, fontsize=8, handletextpad=0.1, labelcolor="#16202b", title="the goal is", title_fontsize=8)
        right.scatter(*points[~in_view].T, color="#d9dfe5", **dots)
        coloured = right.scatter(*points[in_view].T, c=columns[in_view], cmap="coolwarm", vmin=0, vmax=COLUMNS - 1, **dots)
        bar = figure.colorbar(coloured, ax=right, ticks=[0, COLUMNS // 2, COLUMNS - 1], label="the goal's column")
        bar.ax.set_yticklabels(["left", "ahead", "right"])
        bar.outline.set_visible(False)
        for axes in (left, right):
            axes.set(xticks=[], yticks=[], xlabel=f"first component, {100 * shares[0]:.0f} % of the variance")
        left.set_ylabel(f"second, {100 * shares[1]:.0f} %")
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()
