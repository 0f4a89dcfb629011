"""Writes frames as MP4 files that every browser plays, arranges videos in a grid and adds captions.

Frames are uint8 [H, W, 3].
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vla.x264 import equal_bytes

PAPER, INK, MUTED = (255, 255, 255), (22, 32, 43), (96, 108, 120)
OUTCOMES = {"success": (15, 118, 110), "failure": (180, 62, 35)}


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float = 10.0) -> Path:
    """Writes H.264 in yuv420p, playable while it loads, atomically. Odd sides get one more row or column.

    Raises:
        ValueError: there are no frames, their sizes differ, or they are not uint8 [H, W, 3].
    """
    import av

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.mp4")
    shape = None
    try:
        with av.open(str(unfinished), "w", options={"movflags": "faststart"}) as container:
            options = {"crf": "20", "preset": "fast", **equal_bytes()}
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options=options)
            stream.pix_fmt = "yuv420p"
            # One thread makes equal frames give equal bytes, and leaves the cores to other work.
            stream.codec_context.thread_count = 1
            for frame in frames:
                if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != (shape or frame.shape):
                    raise ValueError(f"frame of {frame.dtype} {frame.shape}, expected uint8 {shape or '[H, W, 3]'}")
                if shape is None:
                    shape = frame.shape
                    stream.height, stream.width = (side + side % 2 for side in shape[:2])
                even = np.pad(frame, ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0)), mode="edge")
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), "rgb24")))
            if shape is None:
                raise ValueError("a video needs at least one frame")
            container.mux(stream.encode())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def read_video(path: str | Path) -> list[np.ndarray]:
    """Returns the frames of a video, uint8 [H, W, 3]."""
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def enlarge(frame: np.ndarray, side: int = 256) -> np.ndarray:
    """Returns the frame scaled up by an integer factor to a height of about `side`; a larger frame stays as it is."""
    factor = max(1, round(side / frame.shape[0]))
    if factor == 1:
        return frame
    return np.asarray(Image.fromarray(frame).resize((frame.shape[1] * factor, frame.shape[0] * factor), Image.Resampling.BICUBIC))


def caption(frame: np.ndarray, lines: Sequence[str], outcome: str = "", side: int = 256) -> np.ndarray:
    """Returns the frame, enlarged if small, with a band of text above it, wrapped to the width.

    Args:
        frame: uint8 [H, W, 3].
        lines: the text, e.g. the instruction and then the outcome; the first line is emphasised.
        outcome: "success" or "failure" colours the last line and draws a rule in that colour; "" does neither.
        side: small frames are enlarged to about this height.
    """
    image = enlarge(frame, side)
    width = image.shape[1]
    size = max(13, width // 20)
    margin, leading = size * 2 // 3, size * 4 // 3
    fonts = ImageFont.load_default(size), ImageFont.load_default(size - 1)
    rows = [(row, i) for i, line in enumerate(lines) for row in _wrap(line, fonts[min(i, 1)], width - 2 * margin)]
    band = Image.new("RGB", (width, len(rows) * leading + 2 * margin - (leading - size)), PAPER)
    draw = ImageDraw.Draw(band)
    for k, (row, i) in enumerate(rows):
        last = i == len(lines) - 1 and i > 0
        colour = OUTCOMES.get(outcome, MUTED) if last else INK if i == 0 else MUTED
        draw.text((margin, margin + k * leading), row, fill=colour, font=fonts[min(i, 1)], anchor="la")
    if outcome in OUTCOMES:
        draw.rectangle((0, band.height - 3, width, band.height), fill=OUTCOMES[outcome])
    return np.concatenate([np.asarray(band), image])


def _wrap(line: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> list[str]:
    rows = [""]
    for word in line.split():
        longer = f"{rows[-1]} {word}".strip()
        if rows[-1] and font.getlength(longer) > width:
            rows.append(word)
        else:
            rows[-1] = longer
    return rows


def grid(videos: Sequence[Sequence[np.ndarray]], columns: int = 0, gap: int = 8) -> list[np.ndarray]:
    """Joins videos into one, arranged in a grid. A short one keeps its last frame; a small one stands at the bottom of its cell.

    Args:
        videos: lists of uint8 frames; sizes may differ between videos.
        columns: number of columns; 0 makes the grid about square.
        gap: white pixels between cells.
    """
    columns = min(len(videos), columns or int(np.ceil(np.sqrt(len(videos)))))
    rows = -(-len(videos) // columns)
    height, width = (max(v[0].shape[k] for v in videos) for k in (0, 1))
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    frames = []
    for t in range(max(len(video) for video in videos)):
        for i, video in enumerate(videos):
            frame = video[min(t, len(video) - 1)]
            top, left = i // columns * (height + gap), i % columns * (width + gap)
            # Bottom-aligned: captions of different heights leave the images on one line.
            start = top + height - frame.shape[0]
            canvas[start : top + height, left : left + frame.shape[1]] = frame
        frames.append(canvas.copy())
    return frames


def side_by_side(left: Sequence[np.ndarray], right: Sequence[np.ndarray], gap: int = 8) -> list[np.ndarray]:
    """Joins two videos into one."""
    return grid([left, right], columns=2, gap=gap)
