"""LeRobot data as a source of a mixture, as it is: tables are read once, frames are decoded when they are drawn."""

from __future__ import annotations

import collections
import functools
from pathlib import Path
from typing import Any

import numpy as np

from vla.contract import Camera, Embodiment
from vla.datasets.card import DatasetCard
from vla.datasets.formats.conventions.prepare import Changes, prepare
from vla.datasets.formats.conventions.source_card import SourceCard, load_source_card
from vla.datasets.formats.pictures import decode, rgb
from vla.datasets.formats.readers.lerobot import LeRobotReader
from vla.datasets.formats.statistics.moments import summary
from vla.datasets.formats.video import VideoFrames, _opened, _seek
from vla.datasets.formats.writers.shards import space
from vla.datasets.robot import RobotSource
from vla.datasets.steps import Steps
from vla.errors import UserError
from vla.transforms import Orient, Resize

OPEN_VIDEOS = 8


class LeRobotSource(RobotSource):
    """Robot episodes of a LeRobot folder (v2.0, v2.1 or v3.0) without conversion; everything else as RobotSource.

    Decoding video frames one by one is several times slower than reading our shards: convert what is drawn from often.

    Args:
        folder: holds meta/info.json.
        conventions: a card (file, or name of a shipped one) that says what LeRobot does not; "" takes what info.json says.
        height: pictures are scaled to this height …
        width: … and width; 0 keeps theirs.
    """

    def __init__(self, folder: str | Path, conventions: str = "", height: int = 0, width: int = 0, **kwargs: Any):
        super().__init__(folder, **kwargs)
        if self.remote:
            raise UserError("a LeRobot data set elsewhere", str(folder), "copy it here, or convert it to shards")
        self.conventions, self.height, self.width = conventions, height, width

    def __getstate__(self) -> dict:
        return {k: v for k, v in super().__getstate__().items() if k not in ("reader", "said", "_episodes")}

    def settings(self) -> dict[str, Any]:
        return {k: v for k, v in super().settings().items() if k not in ("reader", "said")}

    @functools.cached_property
    def reader(self) -> LeRobotReader:
        return LeRobotReader(self.folder)

    @functools.cached_property
    def said(self) -> SourceCard:
        return load_source_card(self.conventions) if self.conventions else self.reader.card()

    @functools.cached_property
    def index(self) -> Any:
        raise UserError("a LeRobot data set has no shards", str(self.folder), "convert it: vla data convert")

    @functools.cached_property
    def _episodes(self) -> list[tuple[Any, dict[str, tuple[Any, np.ndarray]]]]:
        """Each episode prepared, with where its frames are."""
        found = []
        for ref in self.reader.refs():
            if ref.damage:
                raise UserError(ref.damage, ref.name, "copy it again, or convert with --on-error skip")
            episode = prepare(self.reader.read(ref), self.said, Changes(), ref.name)
            # Pictures within the tables would stay in memory.
            pictures = {}
            for name, (frames, rows) in episode.images.items():
                kept = frames if isinstance(frames, VideoFrames) else (ref, self.said.cameras[name].key)
                pictures[name] = (kept, rows)
            episode.images = {}
            found.append((episode, pictures))
        return found

    @functools.cached_property
    def card(self) -> DatasetCard:
        """Made from info.json, the conventions, and statistics of all steps."""
        episodes = self._episodes
        sizes = [Camera(name, *self._size(name)) for name in self.said.cameras]
        numbers = {k: summary(lambda k=k: (getattr(e, k) for e, _ in episodes)) for k in ("action", "state")}
        spec = Embodiment(
            cameras=tuple(sizes),
            state=space(self.said.state, numbers["state"], self.said.limits),
            action=space(self.said.action, numbers["action"], self.said.limits),
            frame=self.said.frame,
            mode=self.said.mode,
            rotation=self.said.rotation,
            gripper=self.said.gripper,
            control_hz=self.said.control_hz,
        )
        counts = {"episodes": len(episodes), "steps": sum(len(e) for e, _ in episodes)}
        return DatasetCard(self.said.title, "robot", self.said.embodiment, spec, counts, conventions=self.said.conventions)

    def _size(self, camera: str) -> tuple[int, int]:
        feature = self.reader.features[self.said.cameras[camera].key]
        names = [str(n) for n in feature.get("names") or ("height", "width", "channels")]
        sides = dict(zip((n[0] for n in names), feature["shape"], strict=True))
        return self.height or int(sides["h"]), self.width or int(sides["w"])

    @functools.cached_property
    def _table(self) -> Steps:
        words: dict[str, int] = collections.defaultdict(lambda: len(words))
        rows = {name: [] for name in ("episode", "step", "start", "end", "instruction", "target", "point", "reach")}
        at = 0
        for number, (episode, _) in enumerate(self._episodes):
            length = len(episode)
            rows["episode"].append(np.full(length, number))
            rows["step"].append(np.arange(length))
            segments = np.array([e.get("segment", 0) for e in episode.extra])
            ends = np.append(np.flatnonzero(np.diff(segments)) + 1, length)
            starts = np.append(0, ends[:-1])
            part = np.searchsorted(ends, np.arange(length), side="right")
            rows["start"].append(at + starts[part])
            rows["end"].append(at + ends[part])
            rows["instruction"].append([words[text] for text in episode.instruction])
            rows["target"].append([words[e.get("target", "")] for e in episode.extra])
            rows["point"].append([e.get("point") or (np.nan, np.nan) for e in episode.extra])
            rows["reach"].append([e.get("reach") or (-1,) * 4 for e in episode.extra])
            at += length
        joined = {name: np.concatenate(parts) for name, parts in rows.items()}
        robot = words[self.said.embodiment]
        return Steps(
            record=np.arange(at),
            action=np.concatenate([e.action for e, _ in self._episodes]),
            state=np.concatenate([e.state for e, _ in self._episodes]),
            terminate=np.concatenate([e.terminate for e, _ in self._episodes]),
            embodiment=np.full(at, robot, np.int32),
            words=np.array(list(words), np.str_),
            # An episode that cannot be read is an error here: there is no record to leave out.
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
    def _images(self) -> Any:
        return _Frames(self)

    def of_shard(self, name: str) -> RobotSource:
        raise UserError("a LeRobot data set has no shards", str(self.folder), "give the folder")


class _Frames:
    """Row of the table -> {camera: upright RGB}; videos stay open, and go on from where they are."""

    def __init__(self, source: LeRobotSource):
        self.source = source
        self.decoders: dict[str, Decoder] = {}

    def __call__(self, record: int) -> dict[str, np.ndarray]:
        table = self.source._table
        episode = int(table.episode[record])
        _, pictures = self.source._episodes[episode]
        images = {}
        for name, (frames, rows) in pictures.items():
            row = int(rows[table.step[record]])
            if isinstance(frames, VideoFrames):
                pixels = self._decoder(frames.path).frame(frames.start + row / frames.fps, frames.fps, frames.where)
            else:
                ref, key = frames
                column = self.source.reader.rows(ref.place[1], ref.place[0], ref.name, ["episode_index", key])[key]
                pixels = decode(self.source.reader._picture(column[row].as_py(), ref.name), ref.name)
            upright = Orient(self.source.said.cameras[name].orientation)(rgb(pixels, name))
            images[name] = Resize(*self.source._size(name))(upright)
        return images

    def _decoder(self, path: str) -> Decoder:
        if path not in self.decoders:
            if len(self.decoders) >= OPEN_VIDEOS:
                self.decoders.pop(next(iter(self.decoders))).close()
            self.decoders[path] = Decoder(path)
        return self.decoders[path]


class Decoder:
    """Single frames of a video, by time."""

    def __init__(self, path: str):
        self._context = _opened(path, path)
        self.container, self.stream = self._context.__enter__()

    def frame(self, time: float, fps: float, where: str) -> np.ndarray:
        """uint8 [H, W, 3] at a time (s); UserError if there is none within half a frame."""
        _seek(self.container, self.stream, time) if time > 0 else self.container.seek(0)
        for frame in self.container.decode(self.stream):
            if frame.time is not None and frame.time > time - 0.5 / fps:
                if frame.time > time + 0.5 / fps:
                    break
                return frame.to_ndarray(format="rgb24")
        raise UserError(f"there is no frame at {time:.3f} s", where, "copy the file again")

    def close(self) -> None:
        self._context.__exit__(None, None, None)
