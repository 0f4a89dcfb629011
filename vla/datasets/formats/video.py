"""Reads and writes videos with PyAV; they are encoded with LeRobot's settings."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

import numpy as np

from vla.datasets.formats.images import PIXELS
from vla.datasets.formats.readers.base import library
from vla.errors import UserError
from vla.files import why_not_data

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream

CODECS: dict[str, tuple[str, dict[str, str]]] = {
    "av1": ("libsvtav1", {"g": "2", "crf": "30", "preset": "12"}),
    "h264": ("libx264", {"g": "2", "crf": "23", "preset": "veryfast"}),
}
"""Encoder and options per codec. Every second frame is a key frame, as in LeRobot, so that seeking is cheap."""


def _av() -> ModuleType:
    return library("av", "reading videos")


@contextlib.contextmanager
def open_video(path: str | Path, where: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a video's container and its first video stream; UserError at `where` if it cannot be read."""
    av = _av()
    if why := why_not_data(path):
        raise UserError(why, where)
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise UserError("the file contains no video", where)
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise UserError("the video's codec is unknown", where, "copy the file again")
            if (stream.codec_context.width or 0) * (stream.codec_context.height or 0) > PIXELS:
                size = f"{stream.codec_context.width} x {stream.codec_context.height}"
                raise UserError(f"the video's frames are too large: {size}", where, f"at most {PIXELS} pixels are read")
            # Conversion runs several processes; threads within each would compete.
            stream.codec_context.thread_count = 1
            yield container, stream
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"the video cannot be read: {error}", where, "copy the file again") from error


class VideoFrames:
    """T consecutive frames of a video.

    Args:
        path: of the MP4 file.
        start: time of the first frame in seconds.
        length: T.
        fps: frames per second.
        where: name of the video in error messages.
    """

    def __init__(self, path: str | Path, start: float, length: int, fps: float, where: str):
        self.path, self.start, self.length, self.fps, self.where = str(path), start, length, fps, where

    def __len__(self) -> int:
        return self.length

    def rows(self, rows: Sequence[int]) -> Iterator[np.ndarray]:
        """Yields uint8 [H, W, 3] for each row, in ascending order; UserError if a frame is missing."""
        remaining = iter(rows)
        row = next(remaining, None)
        if row is None:
            return
        with open_video(self.path, self.where) as (container, stream):
            seek(container, stream, self.start + row / self.fps)
            for frame in container.decode(stream):
                if frame.time is None:
                    continue
                number = round((frame.time - self.start) * self.fps)
                if number > row:
                    raise UserError(f"frame {row} of {self.length} is missing", self.where, "copy the file again")
                if number == row:
                    yield frame.to_ndarray(format="rgb24")
                    row = next(remaining, None)
                    if row is None:
                        return
        raise UserError(f"the video ends before frame {row} of {self.length}", self.where, "copy the file again")


def seek(container: InputContainer, stream: VideoStream, time: float) -> None:
    """Seeks to the last key frame before a time in seconds; at time 0 or before it does nothing."""
    if time > 0 and stream.time_base:
        container.seek(int(time / stream.time_base), stream=stream, backward=True)


class VideoWriter:
    """Writes an MP4 of RGB frames of one size; a context manager.

    Raises:
        UserError: the codec is unknown, or a side of the frames is odd (yuv420p).
    """

    def __init__(self, path: Path, fps: float, codec: str):
        if codec not in CODECS:
            raise UserError(f"unknown video codec {codec!r}", "--video", f"one of {', '.join(CODECS)}, none")
        self.path, self.fps, self.codec = path, fps, codec
        self.stream: VideoStream | None = None

    def __enter__(self) -> VideoWriter:
        av = _av()
        # SVT-AV1 prints its settings at every start, whatever FFmpeg's log level.
        os.environ.setdefault("SVT_LOG", "1")
        av.logging.set_level(av.logging.ERROR)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.container: OutputContainer = av.open(str(self.path), "w", format="mp4")
        return self

    def write(self, frame: np.ndarray) -> None:
        """Appends a frame, uint8 [H, W, 3]."""
        av = _av()
        if self.stream is None:
            height, width = frame.shape[:2]
            if height % 2 or width % 2:
                raise UserError(f"the frames are {height} x {width}", str(self.path), "videos need even sides: --size")
            name, options = CODECS[self.codec]
            rate = Fraction(self.fps).limit_denominator(1000)
            self.stream = cast("VideoStream", self.container.add_stream(name, rate=rate, options=options))
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
    """Restores the scheduling that SVT-AV1 changes: run as root, it gives the calling thread and its own real-time priority."""
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        for thread in map(int, os.listdir("/proc/self/task")):
            with contextlib.suppress(OSError):  # The thread may have ended.
                if os.sched_getscheduler(thread) == os.SCHED_FIFO != policy:
                    os.sched_setscheduler(thread, policy, parameters)


def frame_bytes(frames: list[np.ndarray], fps: float, codec: str) -> float:
    """Returns the bytes per frame of a video of these frames."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample.mp4"
        write_video(path, frames, fps, codec)
        return path.stat().st_size / len(frames)


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float, codec: str = "av1") -> None:
    """Writes all frames as one MP4."""
    with VideoWriter(path, fps, codec) as video:
        for frame in frames:
            video.write(frame)
