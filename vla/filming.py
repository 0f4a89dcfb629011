"""An episode in one line, and as a film."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from vla.report.video import caption, grid, read_video, write_video
from vla.sim.embodiment import CONTROL_HZ
from vla.sim.episodes import Result


def describe(result: Result) -> str:
    """One line on how an episode went."""
    said = f"“{result.instruction}”" if result.instruction else "no instruction"
    how = "success" if result.success else result.failure
    return f"{said}: {how} after {result.steps} steps (on the table: {', '.join(result.objects)})"


def captioned(result: Result) -> list[np.ndarray]:
    """An episode's frames, front and wrist side by side, with the instruction, the action that led to each and, on the last one,
    which stays a second, the outcome drawn in."""
    side = result.frames[0].shape[0]
    end, how = ("success", "success") if result.success else ("failure", result.failure)
    told = result.instruction or "(no instruction)"
    done = [" ", *map(_said, result.actions)]
    frames = [caption(frame, [told, action], side=side) for frame, action in zip(result.frames[:-1], done, strict=False)]
    last = caption(result.frames[-1], [told, f"{how} after {result.steps} steps"], end, side)
    # Words that need more lines than others leave their frame higher.
    tall = max(frame.shape[0] for frame in [*frames, last])
    even = [np.pad(f, ((tall - f.shape[0], 0), (0, 0), (0, 0)), constant_values=255) for f in [*frames, last]]
    return even + even[-1:] * (round(CONTROL_HZ) - 1)


def _said(action: np.ndarray) -> str:
    """An action in a few words: centimetres, degrees, and what the gripper does."""
    x, y, z = 100 * action[:3]
    gripper = "close" if action[-1] > 0 else "open"
    return f"x {x:+.1f}  y {y:+.1f}  z {z:+.1f} cm   turn {np.degrees(action[5]):+.0f}°   {gripper}"


def film(result: Result, path: str | Path) -> Path:
    """Writes an episode as a film."""
    return write_video(path, captioned(result), fps=CONTROL_HZ)


def film_grid(films: Iterable[str | Path], path: str | Path) -> Path:
    """Writes films as one, beside each other and at half their size."""
    return write_video(path, grid([[frame[::2, ::2] for frame in read_video(one)] for one in films]), fps=CONTROL_HZ)
