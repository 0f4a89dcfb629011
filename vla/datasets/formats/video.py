"""Frames of videos by PyAV: in order from a time, one at a time by seeking, and written as LeRobot encodes them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vla.datasets.formats.pictures import PIXELS
from vla.datasets.formats.readers.base import library
from vla.errors import UserError

CODECS: dict[str, tuple[str, dict[str, str]]] = {
    "av1": ("libsvtav1", {"g": "2", "crf": "30", "preset": "12"}),
    "h264": ("libx264", {"g": "2", "crf": "23", "preset": "veryfast"}),
}
"""A key frame every second frame, as LeRobot has it: any frame is at most one away from where decoding can begin."""


def _av() -> Any:
    return library("av", "reading videos")


@contextlib.contextmanager
def _opened(path: str | Path, where: str) -> Iterator[tuple[Any, Any]]:
    av = _av()
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise UserError("it holds no video", where)
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise UserError("its codec is not known", where, "copy the file again")
            if (stream.codec_context.width or 0) * (stream.codec_context.height or 0) > PIXELS:
                raise UserError(f"frames of {stream.codec_context.width} x {stream.codec_context.height}", where, "too large")
            # Processes are what runs in parallel here.
            stream.codec_context.thread_count = 1
            yield container, stream
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"the video cannot be read: {error}", where, "copy the file again") from error


class VideoFrames:
    """T frames of a video from a time on.

    Args:
        path: of the MP4.
        start: seconds at which the first frame is.
        length: T.
        fps: frames per second.
        where: names it in messages.
    """

    def __init__(self, path: str | Path, start: float, length: int, fps: float, where: str):
        self.path, self.start, self.length, self.fps, self.where = str(path), start, length, fps, where

    def __len__(self) -> int:
        return self.length

    def rows(self, rows: Sequence[int]) -> Iterator[np.ndarray]:
        """uint8 [H, W, 3] of each row; UserError naming the first frame that is not there."""
        wanted = iter(rows)
        row = next(wanted, None)
        if row is None:
            return
        with _opened(self.path, self.where) as (container, stream):
            _seek(container, stream, self.start + row / self.fps)
            for frame in container.decode(stream):
                if frame.time is None:
                    continue
                here = round((frame.time - self.start) * self.fps)
                if here > row:
                    raise UserError(f"frame {row} of {self.length} is missing", self.where, "copy the file again")
                if here == row:
                    yield frame.to_ndarray(format="rgb24")
                    row = next(wanted, None)
                    if row is None:
                        return
        raise UserError(f"the video ends before frame {row} of {self.length}", self.where, "copy the file again")


def _seek(container: Any, stream: Any, time: float) -> None:
    """To the last key frame before a time."""
    if time > 0 and stream.time_base:
        container.seek(int(time / stream.time_base), stream=stream, backward=True)


class VideoWriter:
    """An MP4 of RGB frames of one size; a context manager.

    Raises:
        UserError: an unknown codec, or sides that are not even (yuv420p).
    """

    def __init__(self, path: Path, fps: float, codec: str):
        if codec not in CODECS:
            raise UserError(f"unknown video codec {codec!r}", "--video", f"one of {', '.join(CODECS)}, none")
        self.path, self.fps, self.codec = path, fps, codec
        self.stream: Any = None

    def __enter__(self) -> VideoWriter:
        av = _av()
        # SVT-AV1 reports its settings on every start, past what FFmpeg logs.
        os.environ.setdefault("SVT_LOG", "1")
        av.logging.set_level(av.logging.ERROR)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.container = av.open(str(self.path), "w", format="mp4")
        return self

    def write(self, frame: np.ndarray) -> None:
        """Appends a frame, uint8 [H, W, 3]."""
        av = _av()
        if self.stream is None:
            height, width = frame.shape[:2]
            if height % 2 or width % 2:
                raise UserError(f"frames of {height} x {width}", str(self.path), "videos need even sides: --size")
            name, options = CODECS[self.codec]
            rate = Fraction(self.fps).limit_denominator(1000)
            self.stream = self.container.add_stream(name, rate=rate, options=options)
            self.stream.width, self.stream.height, self.stream.pix_fmt = width, height, "yuv420p"
            self.stream.codec_context.thread_count = 1
            with _ordinary_priority():
                self.stream.codec_context.open()
        self.container.mux(self.stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

    def __exit__(self, kind, error, trace) -> None:
        if self.stream is not None and kind is None:
            self.container.mux(self.stream.encode(None))
        self.container.close()


@contextlib.contextmanager
def _ordinary_priority() -> Iterator[None]:
    """Undoes what SVT-AV1 does for root: it gives the calling thread and its own the highest real-time priority of all."""
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    before, how = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        for thread in map(int, os.listdir("/proc/self/task")):
            with contextlib.suppress(OSError):  # it may have ended
                if os.sched_getscheduler(thread) == os.SCHED_FIFO != before:
                    os.sched_setscheduler(thread, before, how)


def frame_bytes(frames: list[np.ndarray], fps: float, codec: str) -> float:
    """Bytes per frame of a film like these frames."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "some.mp4"
        write_video(path, frames, fps, codec)
        return path.stat().st_size / len(frames)


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float, codec: str = "av1") -> None:
    """All frames as one MP4."""
    with VideoWriter(path, fps, codec) as video:
        for frame in frames:
            video.write(frame)
