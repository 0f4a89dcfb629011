"""Reads and writes videos with PyAV; they are encoded with LeRobot's settings."""

from __future__ import annotations

import contextlib
import dataclasses
import math
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
from vla.x264 import equal_bytes

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

TOLERANCE = 1e-4
"""Seconds by which a frame may differ from its step's timestamp: LeRobot's `tolerance_s`."""
COARSEST = 1e-3
"""Seconds to which videos may round the times of their frames."""
SAME_RATE = 1.1e-3
"""Relative difference of rates that go by one name, as 29.97 frames per second do by 30."""
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
    if why := why_not_data(path):
        raise UserError(why, where)
    with _readable(where), _av().open(str(path), metadata_errors="replace") as container:
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


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    """Turns errors of a damaged video into UserErrors."""
    try:
        yield
    except (_av().FFmpegError, OSError) as error:
        raise UserError(f"the video cannot be read: {error}", where, "copy the file again") from error


@dataclasses.dataclass(frozen=True)
class Timing:
    """When a video's frames come.

    Attributes:
        rate: frames per second; 0 if they do not come regularly.
        mean: frames per second on average; 0 if that is unknown.
        tick: unit of their times, in seconds.
        end: length of the video in seconds; infinite if it is unknown.
    """

    rate: float
    mean: float
    tick: float
    end: float


def _timing(container: InputContainer, stream: VideoStream) -> Timing:
    """Returns what a video's header says of its frames' times."""
    mean, base = stream.average_rate or 0, stream.base_rate or 0
    end = container.duration / 1e6 if container.duration else math.inf
    # The base rate is a guess, unless the average agrees with it.
    return Timing(float(mean) if mean == base else 0.0, float(mean), float(stream.time_base or 0), end)


class VideoFrames:
    """T frames of a video, one for each step of an episode.

    Args:
        path: of the MP4 file.
        start: time in the video at which the episode begins, in seconds.
        times: times [T] of the steps from there on, in seconds; they must not fall.
        where: name of the video in error messages.
        end: time in the video at which the episode ends; infinite: with the video.
    """

    def __init__(self, path: str | Path, start: float, times: np.ndarray, where: str, end: float = math.inf):
        self.path, self.start, self.times, self.where, self.end = str(path), start, times, where, end
        self.rate = regular_rate(times)

    def __len__(self) -> int:
        return len(self.times)

    def rows(self, rows: Sequence[int]) -> Iterator[np.ndarray]:
        """Yields uint8 [H, W, 3] for each row, in ascending order; UserError if a frame is missing."""
        with Decoder(self.path, self.where) as decoder:
            yield from decoder.frames(self, rows)

    def aims(self, timing: Timing) -> tuple[np.ndarray, float]:
        """Returns the times [T] in the video of the steps' frames, and how far a frame may be away from its time.

        Raises:
            UserError: the frames come at another rate than the steps.
        """
        if not len(self):
            return self.times, 0.0
        times, start, pace = self.times, self.start, 1.0
        tolerance = TOLERANCE + min(timing.tick, COARSEST) / 2 + resolution(start + times[-1])
        if times[0] > tolerance and start + times[-1] >= min(self.end, timing.end):
            # They count from elsewhere, such as the data set's beginning or 1970.
            times = times - times[0]
        if self.rate and timing.rate:
            frames = timing.rate / self.rate
            whole = max(round(frames), 1)
            if abs(frames / whole - 1) > SAME_RATE:
                raise self._other_rate(timing)
            pace = whole / frames
        if timing.rate and abs(start - round(start * timing.rate) / timing.rate) > tolerance:
            # No frame begins then: it was computed by the rate's other name.
            start *= pace
        return start + times * pace, tolerance

    def missing(self, row: int, timing: Timing, ended: bool) -> UserError:
        """Returns the error for a step that has no frame."""
        if self.rate and timing.mean and abs(timing.mean / self.rate - 1) > SAME_RATE:
            return self._other_rate(timing)
        what = f"the video ends before frame {row} of {len(self)}" if ended else f"frame {row} of {len(self)} is missing"
        return UserError(what, self.where, "copy the file again")

    def _other_rate(self, timing: Timing) -> UserError:
        what = f"the video has {timing.mean:.5g} frames per second, its table {self.rate:.5g}"
        fix = "encode the video again at the table's rate, or correct fps in meta/info.json and the timestamps"
        return UserError(what, self.where, fix)


def regular_rate(times: np.ndarray) -> float:
    """Returns how many times there are per second; 0 if they are not regular."""
    if len(times) < 2 or not times[-1] > times[0]:
        return 0.0
    step = (times[-1] - times[0]) / (len(times) - 1)
    off = np.abs(times - times[0] - step * np.arange(len(times))).max()
    return float(1 / step) if off <= TOLERANCE + resolution(times[-1]) else 0.0


def resolution(time: float) -> float:
    """Returns how exact a time is that may have been stored as float32."""
    return min(float(np.spacing(np.float32(abs(time)))), COARSEST)


class Decoder:
    """An open video, which decodes the frames of steps; a context manager.

    Raises:
        UserError: the file is damaged, or contains no video; `where` names it.
    """

    def __init__(self, path: str | Path, where: str):
        self._stack = contextlib.ExitStack()
        self.container, self.stream = self._stack.enter_context(open_video(path, where))
        self.timing = _timing(self.container, self.stream)
        self._moved = False

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    def frames(self, video: VideoFrames, rows: Sequence[int]) -> Iterator[np.ndarray]:
        """Yields uint8 [H, W, 3] for each row, in ascending order.

        Raises:
            UserError: the video is damaged, or has no frame at the time of a step.
        """
        aims, tolerance = video.aims(self.timing)
        remaining = iter(rows)
        row = next(remaining, None)
        if row is None:
            return
        with _readable(video.where):
            for frame in self._decoded(aims[row] + tolerance):
                if frame.time < aims[row] - tolerance:
                    continue
                if frame.time > aims[row] + tolerance:
                    raise video.missing(row, self.timing, ended=False)
                pixels = frame.to_ndarray(format="rgb24")
                while abs(frame.time - aims[row]) <= tolerance:
                    yield pixels
                    row = next(remaining, None)
                    if row is None:
                        return
        raise video.missing(row, self.timing, ended=True)

    def _decoded(self, time: float) -> Iterator[VideoFrame]:
        """Yields the frames from a key frame on, of which the first is not after `time` unless all frames are."""
        back = 0.0
        while True:
            self._seek(time - back)
            frames = (frame for frame in self.container.decode(self.stream) if frame.time is not None)
            first = next(frames, None)
            if first is None:
                return
            if first.time <= time or back >= time:
                yield first
                yield from frames
                return
            # Frames that are shown before a key frame but stored after it (open GOP) need the key frame before that.
            back = 2 * back + first.time - time

    def _seek(self, time: float) -> None:
        """Moves to the last key frame before a time in seconds."""
        if time > 0 and self.stream.time_base:
            self.container.seek(int(time / self.stream.time_base), stream=self.stream, backward=True)
        elif self._moved:
            self.container.seek(0)
        self._moved = True


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
            options = {**options, **(equal_bytes() if name == "libx264" else {})}
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
