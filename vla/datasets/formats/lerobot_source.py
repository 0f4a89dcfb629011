"""A LeRobot data set as a source of a mixture, without conversion: tables stay in memory, frames are decoded on demand."""

from __future__ import annotations

import collections
import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any, Never

import numpy as np

from vla import hub
from vla.contract import Camera, Embodiment
from vla.datasets.card import DatasetCard
from vla.datasets.formats.conventions.prepare import Changes, Dropped, PreparedEpisode, prepare
from vla.datasets.formats.conventions.source_card import SourceCard, contract_orientation, load_source_card
from vla.datasets.formats.images import decode, rgb
from vla.datasets.formats.readers.base import Frames, Ref
from vla.datasets.formats.readers.lerobot import LeRobotReader
from vla.datasets.formats.readers.lerobot_meta import image_size
from vla.datasets.formats.statistics.moments import summary
from vla.datasets.formats.video import Decoder, Timing, VideoFrames
from vla.datasets.formats.writers.shards import conventions, space
from vla.datasets.robot import RobotSource
from vla.datasets.steps import Steps
from vla.errors import Unreadable, UserError
from vla.transforms import Orient, Resize

OPEN_VIDEOS = 8
FrameLocation = VideoFrames | tuple[Ref, str]
"""A video, or a record and its column of images."""
Located = tuple[PreparedEpisode, dict[str, tuple[FrameLocation, np.ndarray]]]
"""A prepared episode without its images, and by camera the frames and the row of each step."""


class LeRobotSource(RobotSource):
    """Robot episodes of a LeRobot folder (v2.0, v2.1 or v3.0); otherwise the same as RobotSource.

    Decoding single video frames is several times slower than reading our shards: convert data sets that are used often.

    Args:
        folder: the folder with meta/info.json, or hf://datasets/OWNER/NAME. Of that the tables are fetched, and the videos of the
            cameras that are used.
        conventions: a source card, a file or the name of a shipped one, for what LeRobot does not store; "" uses info.json alone.
        height: height to which images are scaled; 0 keeps theirs.
        width: width to which images are scaled; 0 keeps theirs.
    """

    def __init__(self, folder: str | Path, conventions: str = "", height: int = 0, width: int = 0, **kwargs: Any):
        super().__init__(folder, **kwargs)
        if self.remote and not hub.address(folder):
            raise UserError("a LeRobot data set cannot be read remotely", str(folder), "copy it here, or convert it to shards")
        if self.questions_per_step:
            raise UserError("a LeRobot data set has no questions", str(folder), "leave out `questions_per_step`")
        self.remote = None  # its files are fetched before they are read
        self.conventions, self.height, self.width = conventions, height, width

    def __getstate__(self) -> dict:
        return {k: v for k, v in super().__getstate__().items() if k not in ("reader", "source_card", "_read")}

    def settings(self) -> dict[str, Any]:
        return {k: v for k, v in super().settings().items() if k not in ("reader", "source_card")}

    @functools.cached_property
    def reader(self) -> LeRobotReader:
        # The descriptions say which videos are needed.
        folder = hub.data_set(self.folder, ("meta/*", "data/*"))
        card = self._with_used(load_source_card(self.conventions) if self.conventions else LeRobotReader(folder).card())
        videos = [f"videos/*{camera.key}/*" for camera in card.cameras.values()]
        return LeRobotReader(hub.data_set(self.folder, ("meta/*", "data/*", *videos)))

    @functools.cached_property
    def source_card(self) -> SourceCard:
        return self._with_used(load_source_card(self.conventions) if self.conventions else self.reader.card())

    def _with_used(self, card: SourceCard) -> SourceCard:
        """The source card without the cameras that are not used: their videos are neither fetched nor opened."""
        used = self.chosen(card.cameras)
        return dataclasses.replace(card, cameras={name: card.cameras[name] for name in used})

    @functools.cached_property
    def index(self) -> Never:
        raise UserError("a LeRobot data set has no shards", str(self.folder), "convert it: vla data convert")

    @functools.cached_property
    def _read(self) -> tuple[list[Located], dict[str, str]]:
        """The episodes that can be read, and of the others: name -> why.

        Raises:
            UserError: no episode can be read, or more are damaged than `tolerate` permits.
        """
        episodes, damaged, timings, first = [], {}, {}, None
        refs = self.reader.refs_for(self.source_card)
        for ref in refs:
            try:
                episodes.append(self._located(ref, timings))
            except (UserError, Dropped) as error:
                problem = error if isinstance(error, UserError) else UserError(str(error), ref.name, "give a card with a text")
                damaged[ref.name] = problem.what if problem.where == ref.name else f"{problem.where}: {problem.what}"
                first = first or problem
        if first and not episodes:
            raise first
        self.check(damaged, len(refs))
        return episodes, damaged

    def _located(self, ref: Ref, timings: dict[str, Timing]) -> Located:
        if ref.damage:
            raise UserError(ref.damage, ref.name, "copy it again")
        episode = prepare(self.reader.read(ref), self.source_card, Changes(), ref.name)
        # Images stored within the tables are read again on demand: kept here, they would stay in memory.
        locations: dict[str, tuple[FrameLocation, np.ndarray]] = {}
        for name, (frames, rows) in episode.images.items():
            if isinstance(frames, VideoFrames):
                _check_rate(frames, timings)
                locations[name] = frames, rows
            else:
                locations[name] = (ref, self.source_card.cameras[name].key), rows
        episode.images = {}
        return episode, locations

    @property
    def _episodes(self) -> list[Located]:
        return self._read[0]

    @property
    def unreadable(self) -> dict[str, str]:
        return self._read[1]

    @property
    def _count(self) -> int:
        return sum(map(len, self._read))

    @functools.cached_property
    def card(self) -> DatasetCard:
        """The data set's card, made from info.json, the conventions and statistics of all steps."""
        episodes = self._episodes
        source_card = self.source_card
        cameras = [
            Camera(name, *size, contract_orientation(source_card.cameras[name].orientation)) for name, size in self._sizes.items()
        ]
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
        card = DatasetCard(source_card.title, "robot", source_card.embodiment, spec, counts, conventions=conventions(source_card))
        return self.described(card)

    @functools.cached_property
    def _sizes(self) -> dict[str, tuple[int, int]]:
        """Height and width of each camera's images in samples."""
        sizes, enlarged = {}, []
        for name, camera in self.source_card.cameras.items():
            height, width = image_size(self.reader.features.get(camera.key, {})) or self._decoded_size(name)
            sizes[name] = self.height or height, self.width or width
            if self.height > height or self.width > width:
                enlarged.append(f"{name} from {height} x {width}")
        if enlarged:
            print(f"note: {self.folder}: images are enlarged, which adds no detail: {', '.join(enlarged)}", file=sys.stderr)
        return sizes

    def _decoded_size(self, camera: str) -> tuple[int, int]:
        """The size of the first image that can be read."""
        problem = None
        for record in np.flatnonzero(self._table.step == 0).tolist():
            try:
                return self._images.pixels(record, camera).shape[:2]
            except UserError as error:
                problem = problem or error
        raise problem or UserError("there is no image", str(self.folder))

    @functools.cached_property
    def _table(self) -> Steps:
        ids: dict[str, int] = collections.defaultdict(lambda: len(ids))
        rows = {name: [] for name in ("episode", "step", "start", "end", "instruction", "target", "actor", "point", "reach")}
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
            rows["actor"].append([ids[e.get("actor", "")] for e in episode.extra])
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
            # Episodes, not steps, are unreadable.
            unreadable=np.zeros(0, np.int64),
            why=np.zeros(0, np.str_),
            **{
                **joined,
                "point": joined["point"].astype(np.float32),
                "reach": joined["reach"].astype(np.int16),
                "instruction": joined["instruction"].astype(np.int32),
                "target": joined["target"].astype(np.int32),
                "actor": joined["actor"].astype(np.int32),
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
        images = {}
        for camera in self.source.card.spec.cameras:
            name = camera.name
            try:
                pixels = self.pixels(record, name)
            except UserError as error:
                step = int(self.source._table.step[record])
                raise Unreadable(error.what, f"{error.where}, step {step}", error.fix) from error
            upright = Orient(self.source.source_card.cameras[name].orientation)(pixels)
            images[name] = Resize(camera.height, camera.width)(upright)
        return images

    def pixels(self, record: int, camera: str) -> np.ndarray:
        """Decodes an image as it is stored, uint8 [H, W, 3]; UserError if it is damaged."""
        table = self.source._table
        _, locations = self.source._episodes[int(table.episode[record])]
        location, rows = locations[camera]
        row = int(rows[table.step[record]])
        if isinstance(location, VideoFrames):
            return rgb(next(self._decoder(location.path).frames(location, [row])), location.where)
        ref, key = location
        value, where = self.source.reader.cell(ref, key, row), f"{ref.name}, {key}"
        frame = next(iter(value.rows([0]) if isinstance(value, Frames) else value))
        return rgb(frame if isinstance(frame, np.ndarray) else decode(frame, where), where)

    def _decoder(self, path: str) -> Decoder:
        if path not in self.decoders:
            if len(self.decoders) >= OPEN_VIDEOS:
                self.decoders.pop(next(iter(self.decoders))).close()
            self.decoders[path] = Decoder(path, path)
        return self.decoders[path]


def _check_rate(frames: VideoFrames, timings: dict[str, Timing]) -> None:
    """Checks that a video opens and has the rate of the steps, else UserError; `timings` keeps what is known of each file."""
    if frames.path not in timings:
        with Decoder(frames.path, frames.where) as decoder:
            timings[frames.path] = decoder.timing
    frames.aims(timings[frames.path])
