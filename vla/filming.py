"""An episode in one line, and as a film."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vla.report.video import caption, grid, read_video, write_video
from vla.sim.embodiment import CONTROL_HZ
from vla.sim.episodes import Result


def describe(result: Result) -> str:
    """One line on how an episode went."""
    said = f"“{result.instruction}”" if result.instruction else "no instruction"
    how = "success" if result.success else result.failure
    return f"{said}: {how} after {result.steps} steps (on the table: {', '.join(result.objects)})"


def film(result: Result, path: str | Path) -> Path:
    """Writes an episode's frames with instruction and outcome drawn in; front and wrist side by side."""
    outcome = "success" if result.success else result.failure
    side = result.frames[0].shape[0]
    frames = []
    for number, frame in enumerate(result.frames):
        last = number == len(result.frames) - 1
        frames.append(caption(frame, [result.instruction or "(no instruction)"], outcome if last else "", side))
    return write_video(path, frames + frames[-1:] * 10, fps=CONTROL_HZ)


def film_grid(films: Iterable[str | Path], path: str | Path) -> Path:
    """Writes films as one, beside each other and at half their size."""
    return write_video(path, grid([[frame[::2, ::2] for frame in read_video(one)] for one in films]), fps=CONTROL_HZ)
