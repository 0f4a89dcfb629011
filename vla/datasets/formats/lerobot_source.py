"""A LeRobot data set as a source of a mixture, without conversion: tables stay in memory, frames are decoded on demand."""

from __future__ import annotations

import collections
import functools
from pathlib import Path
from typing import Any, Never

import numpy as np

from vla.contract import Camera, Embodiment
from vla.datasets.card import DatasetCard
from vla.datasets.formats.conventions.prepare import Changes, Episode, prepare
from vla.datasets.formats.conventions.source_card import SourceCard, load_source_card
from vla.datasets.formats.images import decode, rgb
from vla.datasets.formats.readers.base import Ref
from vla.datasets.formats.readers.lerobot import LeRobotReader
from vla.datasets.formats.statistics.moments import summary
from vla.datasets.formats.video import VideoFrames, open_video, seek
from vla.datasets.formats.writers.shards import space
from vla.datasets.robot import RobotSource
from vla.datasets.steps import Steps
from vla.errors import UserError
from vla.transforms import Orient, Resize

OPEN_VIDEOS = 8
FrameLocation = VideoFrames | tuple[Ref, str]
"""A video, or a record and its column of images."""


class LeRobotSource(RobotSource):
    """Robot episodes of a LeRobot folder (v2.0, v2.1 or v3.0); otherwise the same as RobotSource.

    Decoding single video frames is several times slower than reading our shards: convert data sets that are used often.

    Args:
        folder: the folder with meta/info.json.
        conventions: a source card, a file or the name of a shipped one, for what LeRobot does not store; "" uses info.json alone.
        height: height to which images are scaled; 0 keeps theirs.
        width: width to which images are scaled; 0 keeps theirs.
    """

    def __init__(self, folder: str | Path, conventions: str = "", height: int = 0, width: int = 0, **kwargs: Any):
        super().__init__(folder, **kwargs)
        if self.remote:
            raise UserError("a LeRobot data set cannot be read remotely", str(folder), "copy it here, or convert it to shards")
        self.conventions, self.height, self.width = conventions, height, width

    def __getstate__(self) -> dict:
        return {k: v for k, v in super().__getstate__().items() if k not in ("reader", "source_card", "_episodes")}

    def settings(self) -> dict[str, Any]:
        return {k: v for k, v in super().settings().items() if k not in ("reader", "source_card")}

    @functools.cached_property
    def reader(self) -> LeRobotReader:
        return LeRobotReader(self.folder)

    @functools.cached_property
    def source_card(self) -> SourceCard:
        return load_source_card(self.conventions) if self.conventions else self.reader.card()

    @functools.cached_property
    def index(self) -> Never:
        raise UserError("a LeRobot data set has no shards", str(self.folder), "convert it: vla data convert")

    @functools.cached_property
    def _episodes(self) -> list[tuple[Episode, dict[str, tuple[FrameLocation, np.ndarray]]]]:
        """Each prepared episode without its images, and by camera the frames and the row of each step."""
        episodes = []
        for ref in self.reader.refs():
            if ref.damage:
                raise UserError(ref.damage, ref.name, "copy it again, or convert with --on-error skip")
            episode = prepare(self.reader.read(ref), self.source_card, Changes(), ref.name)
            # Images stored within the tables are read again on demand: kept here, they would stay in memory.
            locations: dict[str, tuple[FrameLocation, np.ndarray]] = {}
            for name, (frames, rows) in episode.images.items():
                location = frames if isinstance(frames, VideoFrames) else (ref, self.source_card.cameras[name].key)
                locations[name] = (location, rows)
            episode.images = {}
            episodes.append((episode, locations))
        return episodes

    @functools.cached_property
    def card(self) -> DatasetCard:
        """The data set's card, made from info.json, the conventions and statistics of all steps."""
        episodes = self._episodes
        source_card = self.source_card
        cameras = [Camera(name, *self._size(name)) for name in source_card.cameras]
        statistics = {k: summary(lambda k=k: (getattr(e, k) for e, _ in episodes)) for k in ("action", "state")}
        spec = Embodiment(
            cameras=tuple(cameras),
            state=space(source_card.state, statistics["state"], source_card.limits),
            action=space(source_card.action, statistics["action"], source_card.limits),
            frame=source_card.frame,
            mode=source_card.mode,
            rotation=source_card.rotation,
            gripper=source_card.gripper,
            control_hz=source_card.control_hz,
        )
        counts = {"episodes": len(episodes), "steps": sum(len(e) for e, _ in episodes)}
        return DatasetCard(source_card.title, "robot", source_card.embodiment, spec, counts, conventions=source_card.conventions)

    def _size(self, camera: str) -> tuple[int, int]:
        feature = self.reader.features[self.source_card.cameras[camera].key]
        names = [str(n) for n in feature.get("names") or ("height", "width", "channels")]
        # Names may be "h" or "height", "w" or "width", in any order.
        sides = dict(zip((n[0] for n in names), feature["shape"], strict=True))
        return self.height or int(sides["h"]), self.width or int(sides["w"])

    @functools.cached_property
    def _table(self) -> Steps:
        ids: dict[str, int] = collections.defaultdict(lambda: len(ids))
        rows = {name: [] for name in ("episode", "step", "start", "end", "instruction", "target", "point", "reach")}
        start = 0
        for number, (episode, _) in enumerate(self._episodes):
            length = len(episode)
            rows["episode"].append(np.full(length, number))
            rows["step"].append(np.arange(length))
            segments = np.array([e.get("segment", 0) for e in episode.extra])
            ends = np.append(np.flatnonzero(np.diff(segments)) + 1, length)
            starts = np.append(0, ends[:-1])
            part = np.searchsorted(ends, np.arange(length), side="right")
            rows["start"].append(start + starts[part])
            rows["end"].append(start + ends[part])
            rows["instruction"].append([ids[text] for text in episode.instruction])
            rows["target"].append([ids[e.get("target", "")] for e in episode.extra])
            rows["point"].append([e.get("point") or (np.nan, np.nan) for e in episode.extra])
            rows["reach"].append([e.get("reach") or (-1,) * 4 for e in episode.extra])
            start += length
        joined = {name: np.concatenate(parts) for name, parts in rows.items()}
        robot = ids[self.source_card.embodiment]
        return Steps(
            record=np.arange(start),
            action=np.concatenate([e.action for e, _ in self._episodes]),
            state=np.concatenate([e.state for e, _ in self._episodes]),
            terminate=np.concatenate([e.terminate for e, _ in self._episodes]),
            embodiment=np.full(start, robot, np.int32),
            words=np.array(list(ids), np.str_),
            # Every episode has been read by now; one that cannot be read raises an error.
            unreadable=np.zeros(0, np.int64),
            why=np.zeros(0, np.str_),
            **{
                **joined,
                "point": joined["point"].astype(np.float32),
                "reach": joined["reach"].astype(np.int16),
                "instruction": joined["instruction"].astype(np.int32),
                "target": joined["target"].astype(np.int32),
            },
        )

    @functools.cached_property
    def _images(self) -> _Images:
        return _Images(self)

    def of_shard(self, name: str) -> RobotSource:
        raise UserError("a LeRobot data set has no shards", str(self.folder), "give the folder")


class _Images:
    """Maps a row of the table to its upright RGB images by camera; keeps some videos open."""

    def __init__(self, source: LeRobotSource):
        self.source = source
        self.decoders: dict[str, Decoder] = {}

    def __call__(self, record: int) -> dict[str, np.ndarray]:
        table = self.source._table
        episode = int(table.episode[record])
        _, locations = self.source._episodes[episode]
        images = {}
        for name, (location, rows) in locations.items():
            row = int(rows[table.step[record]])
            if isinstance(location, VideoFrames):
                time = location.start + row / location.fps
                pixels = self._decoder(location.path).frame(time, location.fps, location.where)
            else:
                ref, key = location
                column = self.source.reader.rows(ref.location[1], ref.location[0], ref.name, ["episode_index", key])[key]
                pixels = decode(self.source.reader.image(column[row].as_py(), ref.name), f"{ref.name}, {key}, row {row}")
            upright = Orient(self.source.source_card.cameras[name].orientation)(rgb(pixels, name))
            images[name] = Resize(*self.source._size(name))(upright)
        return images

    def _decoder(self, path: str) -> Decoder:
        if path not in self.decoders:
            if len(self.decoders) >= OPEN_VIDEOS:
                self.decoders.pop(next(iter(self.decoders))).close()
            self.decoders[path] = Decoder(path)
        return self.decoders[path]


class Decoder:
    """Decodes single frames of a video by time."""

    def __init__(self, path: str):
        self._context = open_video(path, path)
        self.container, self.stream = self._context.__enter__()

    def frame(self, time: float, fps: float, where: str) -> np.ndarray:
        """Returns the frame at a time in seconds, uint8 [H, W, 3]; UserError if there is none within half a frame."""
        seek(self.container, self.stream, time) if time > 0 else self.container.seek(0)
        for frame in self.container.decode(self.stream):
            if frame.time is not None and frame.time > time - 0.5 / fps:
                if frame.time > time + 0.5 / fps:
                    break
                return frame.to_ndarray(format="rgb24")
        raise UserError(f"there is no frame at {time:.3f} s", where, "copy the file again")

    def close(self) -> None:
        self._context.__exit__(None, None, None)
