"""Films of an offline evaluation: what the robot saw, above the decoded and the demonstrated actions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vla.evaluation.offline.replay import Replay
from vla.report.offline_plots import action_frames
from vla.report.video import caption, enlarge, write_video

SIDE = 256


def film(one: Replay, path: str | Path, columns: np.ndarray, names: list[str], units: list[str], hz: float) -> Path:
    """Writes a demonstration as a film: all cameras side by side, below them its actions and the policy's, with a time line.

    Args:
        columns: the dimensions of the action to draw; `names` and `units` are theirs.
        hz: steps per second.
    """
    demonstration = one.demonstration
    plots = action_frames(demonstration.action[:, columns], one.action[:, columns], names, units)
    frames = []
    for step in range(len(demonstration)):
        cameras = [enlarge(image, SIDE) for image in demonstration.images(step).values()]
        height = max(image.shape[0] for image in cameras)
        seen = np.concatenate([np.pad(i, ((0, height - i.shape[0]), (0, 0), (0, 0))) for i in cameras], axis=1)
        frames.append(_stack(caption(seen, [demonstration.instruction[step] or "(no instruction)"]), plots(step)))
    tallest = max(frame.shape[0] for frame in frames)
    even = [np.pad(f, ((tallest - f.shape[0], 0), (0, 0), (0, 0)), constant_values=255) for f in frames]
    return write_video(path, even, fps=hz)


def _stack(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    width = max(top.shape[1], bottom.shape[1])
    parts = [np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=255) for part in (top, bottom)]
    return np.concatenate(parts)
