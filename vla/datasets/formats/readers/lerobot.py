"""Reads LeRobot data sets, versions 2.0, 2.1 and 3.0, with pyarrow and PyAV alone."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from vla.datasets.card import FILE, DatasetCard
from vla.datasets.formats.conventions.from_card import from_card
from vla.datasets.formats.conventions.source_card import CameraKey, Part, SourceCard, vector_names
from vla.datasets.formats.readers.base import LIMIT, InMemoryFrames, Json, Raw, Reader, Ref, inside, library, matching
from vla.datasets.formats.video import VideoFrames
from vla.datasets.shards import decode_json
from vla.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MOST = 10**9
"""Bound on the number of episodes, and on the number of steps of an episode."""
LISTED = 1000
"""Number of missing episodes that are listed one by one."""
EXTRA = "annotation.vla"
"""Our own column: values that our shards have per step and LeRobot has no column for, as JSON."""


class LeRobotReader(Reader):
    """Reader of a folder with meta/info.json, data/ and videos/.

    Raises:
        UserError: pyarrow is not installed, or info.json is missing, damaged or of an unknown version.
    """

    format = "lerobot"

    def __init__(self, path: str | Path):
        super().__init__(path)
        self._arrow()
        file = self.path / "meta/info.json"
        try:
            self.info = json.loads(file.read_bytes())
            self.version = str(self.info["codebase_version"])
            self.fps = float(self.info["fps"])
            self.features = _features(self.info["features"])
            self.data_path = str(self.info["data_path"])
            self.total = int(self.info.get("total_episodes", 0))
            self.chunk = int(self.info.get("chunks_size", 1000))
        except OSError as error:
            raise UserError(f"the file cannot be read: {error.strerror}", str(file)) from error
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise UserError(f"the file is damaged or not LeRobot's: {error!r}", str(file), "copy the file again") from error
        if not self.version.startswith(("v2.", "v3.")) or not 0 < self.fps < 1e6 or self.chunk < 1:
            what = f"version {self.version} at {self.fps} frames per second is not supported"
            raise UserError(what, str(file), "v2.0, v2.1 and v3.0 are read")
        self._file: tuple[str, pq.ParquetFile | None] = ("", None)
        self._task_texts: dict[int, str] | None = None

    @staticmethod
    def _arrow() -> tuple[ModuleType, ModuleType]:
        return library("pyarrow", "reading LeRobot data"), library("pyarrow.parquet", "reading LeRobot data")

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_file": ("", None)}

    @property
    def file_per_episode(self) -> bool:
        """Whether each episode has files of its own (v2)."""
        return self.version.startswith("v2.")

    @property
    def videos(self) -> list[str]:
        """Names of the features that are videos."""
        return [name for name, f in self.features.items() if f.get("dtype") == "video"]

    def _lines(self, name: str) -> list[dict[str, Any]]:
        """Reads a file of meta/ with one JSON object per line."""
        path, entries = self.path / "meta" / name, []
        try:
            with path.open("rb") as lines:
                entries = [json.loads(line) for line in lines if line.strip()]
        except OSError as error:
            raise UserError(f"the file cannot be read: {error.strerror}", str(path)) from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"a line is not JSON: {error}", str(path), "copy the file again") from error
        return entries

    def tasks(self) -> dict[int, str]:
        """Returns task_index -> text of the task."""
        if self._task_texts is None:
            try:
                if self.file_per_episode:
                    self._task_texts = {int(entry["task_index"]): str(entry["task"]) for entry in self._lines("tasks.jsonl")}
                else:
                    table = self._parquet(self.path / "meta/tasks.parquet").to_pydict()
                    texts = table.get("task") or table["__index_level_0__"]
                    self._task_texts = {int(i): str(text) for i, text in zip(table["task_index"], texts, strict=True)}
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise UserError(f"the list of tasks is damaged: {error!r}", f"{self.path}/meta", "copy it again") from error
        return self._task_texts

    def _parquet(self, path: Path) -> pa.Table:
        """Reads a whole (small) file as a table."""
        pa, pq = self._arrow()
        try:
            file = pq.ParquetFile(path)
            _check_size(file, range(file.num_row_groups), str(path))
            return file.read()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(f"the file cannot be read: {error}", str(path), "copy the file again") from error

    def refs(self) -> list[Ref]:
        entries = self._lines("episodes.jsonl") if self.file_per_episode else self._episodes()
        refs, exists, numbers = [], {}, set()
        for row, entry in enumerate(entries):
            try:
                number, length = int(entry["episode_index"]), int(entry["length"])
                if not (0 <= number < MOST and 0 <= length < MOST) or number in numbers:
                    raise ValueError(f"episode {number} has {length} steps or is listed twice")
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                refs.append(Ref(f"{self.path}, entry {row}", 0, (MOST,), f"its entry in meta/ is damaged: {error!r}"))
                continue
            numbers.add(number)
            data, videos = self._files(entry)
            files = [data, *(path for path, _ in videos.values())]
            damage = next((f"{f} is missing" for f in files if not exists.setdefault(f, (self.path / f).is_file())), "")
            refs.append(Ref(f"{self.path}, episode {number}", length, (number, data, videos), damage))
        missing = [n for n in range(min(self.total, len(numbers) + LISTED)) if n not in numbers]
        refs += [Ref(f"{self.path}, episode {n}", 0, (n,), "the list of episodes lacks it") for n in missing]
        if (more := self.total - len(numbers) - len(missing)) > 0:
            refs.append(Ref(f"{self.path}, end", 0, (MOST,), f"the list of episodes lacks {more} more"))
        return sorted(refs, key=lambda ref: ref.location[0])

    def _episodes(self) -> list[dict[str, Any]]:
        entries = []
        for path in matching(self.path / "meta/episodes", "*/*.parquet"):
            table = self._parquet(path)
            # The statistics, most of the table, are not needed.
            entries += table.select([n for n in table.column_names if not n.startswith("stats/")]).to_pylist()
        if not entries:
            raise UserError("the data set lists no episodes", str(self.path / "meta/episodes"))
        return entries

    def _files(self, entry: dict[str, Any]) -> tuple[str, dict[str, tuple[str, float]]]:
        """Returns an episode's data file, and for each video its file and the time in seconds at which the episode begins."""
        number = int(entry["episode_index"])
        names = {"episode_index": number, "episode_chunk": number // self.chunk}
        videos, start = {}, 0.0
        try:
            if not self.file_per_episode:
                names |= {"chunk_index": entry["data/chunk_index"], "file_index": entry["data/file_index"]}
            data = _filled(self.data_path, names)
            for key in self.videos:
                video_names = {**names, "video_key": key}
                if not self.file_per_episode:
                    video_names |= {f"{part}_index": entry[f"videos/{key}/{part}_index"] for part in ("chunk", "file")}
                    start = float(entry[f"videos/{key}/from_timestamp"])
                    if not 0 <= start < MOST:
                        raise ValueError(f"a video begins at {start} s")
                videos[key] = (_filled(str(self.info["video_path"]), video_names), start)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            what = f"its entry in meta/ is damaged or incomplete: {error}"
            raise UserError(what, f"{self.path}, episode {number}", "copy meta/ again") from error
        for path in (data, *(path for path, _ in videos.values())):
            inside(self.path, path, f"{self.path}/meta/info.json")
        return data, videos

    def read(self, ref: Ref) -> Raw:
        number, data, videos = ref.location
        raw: Raw = {}
        table = self.rows(data, number, ref.name)
        for name in table.column_names:
            raw[name] = self._column(name, table[name], ref.name)
        index = raw.get("frame_index")
        if table.num_rows != ref.weight or (isinstance(index, np.ndarray) and (index.ravel() != np.arange(len(index))).any()):
            what = f"the episode has {table.num_rows} rows, not the frames 0 to {ref.weight - 1}"
            raise UserError(what, f"{ref.name}, {data}", "copy the file again")
        for key, (path, start) in videos.items():
            raw[key] = VideoFrames(self.path / path, start, ref.weight, self.fps, f"{ref.name}, {path}")
        raw["task"] = self._instructions(raw, ref)
        if "next.done" in raw:
            raw["terminate"] = raw["next.done"]
        if EXTRA in raw:
            raw["extra"] = [decode_json(str(text or "{}").encode(), f"{ref.name}, {EXTRA}") for text in raw.pop(EXTRA)]
        return raw

    def _instructions(self, raw: Raw, ref: Ref) -> list[str]:
        """Returns the text of each step's task."""
        tasks = self.tasks()
        indices = np.asarray(raw.get("task_index", np.zeros(ref.weight, int))).ravel().tolist()
        unknown = sorted(set(indices) - tasks.keys())
        if unknown:
            raise UserError(f"task_index is {unknown[0]}, but there are {len(tasks)} tasks", ref.name, "copy meta/ again")
        return [tasks[i] for i in indices]

    def rows(self, data: str, number: int, where: str, columns: list[str] | None = None) -> pa.Table:
        """Reads an episode's rows of a data file as a table; UserError if the file is damaged."""
        pa, pq = self._arrow()
        path = str(self.path / data)
        try:
            if self._file[0] != path:
                self._file = (path, pq.ParquetFile(path))
            file = cast("pq.ParquetFile", self._file[1])
            groups = [g for g in range(file.num_row_groups) if _may_contain(file, g, number)]
            _check_size(file, groups, f"{where}, {data}")
            table = file.read_row_groups(groups, columns=columns)
            if "episode_index" in table.column_names:
                pc = library("pyarrow.compute", "reading LeRobot data")
                table = table.filter(pc.equal(table["episode_index"], number))
            return table
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise UserError(f"the file cannot be read: {error}", f"{where}, {data}", "copy the file again") from error

    def _column(self, name: str, column: pa.ChunkedArray, where: str) -> np.ndarray | list[str] | InMemoryFrames:
        pa, _ = self._arrow()
        kind, where = column.type, f"{where}, {name}"
        if column.null_count:
            raise UserError(f"{column.null_count} values are missing", where)
        if pa.types.is_struct(kind):
            return InMemoryFrames([self.image(entry, where) for entry in column.to_pylist()])
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return column.to_pylist()
        try:
            return as_array(column)
        except ValueError as error:
            raise UserError(f"the rows have different lengths: {error}", where) from error

    def image(self, entry: dict[str, Any] | None, where: str) -> bytes:
        """Returns the encoded image of a table's cell, which holds its bytes or its path; UserError if it is missing."""
        if entry and entry.get("bytes"):
            return entry["bytes"]
        if not entry or not isinstance(entry.get("path"), str):
            raise UserError("an image is missing", where)
        path = inside(self.path, entry["path"], where)
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"the image {entry['path']} cannot be read: {error.strerror}", where) from error

    def splits(self) -> Mapping[str, set[str] | None]:
        splits, ranges = {}, self.info.get("splits")
        refs = self.refs() if isinstance(ranges, dict) else []
        for split, text in ranges.items() if isinstance(ranges, dict) else ():
            match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", str(text))
            if match:
                splits[split] = {ref.name for ref in refs if int(match[1]) <= ref.location[0] < int(match[2])}
        return splits

    def card(self) -> SourceCard:
        cameras = {
            camera_name(key): CameraKey(key)
            for key, f in self.features.items()
            if f.get("dtype") in ("video", "image") and not f["info"].get("video.is_depth_map")
        }
        # We wrote this data set: its card has limits, units and conventions.
        if (self.path / "meta" / FILE).is_file():
            return from_card(DatasetCard.load(self.path / "meta"), cameras, "action", "observation.state", ("task",))
        return SourceCard(
            title=self.path.name,
            embodiment=str(self.info.get("robot_type") or "robot"),
            cameras=cameras,
            action=self._part("action", "a"),
            state=self._part("observation.state", "s"),
            instruction=("task",),
            control_hz=self.fps,
            conventions={"source": "read from info.json alone: gripper, rotation and frame are not said there"},
        )

    def _part(self, name: str, prefix: str) -> tuple[Part, ...]:
        """Makes a card's part of a feature, with its own names if they are complete; () if there is no such feature."""
        feature = self.features.get(name)
        if feature is None:
            return ()
        size = math.prod(feature["shape"])
        names = feature.get("names")
        if isinstance(names, dict):
            names = [n for value in names.values() for n in (value if isinstance(value, list) else [value])]
        usable = (
            isinstance(names, list) and len(names) == size and all(isinstance(n, str) for n in names) and len(set(names)) == size
        )
        return (Part(name, tuple(names) if usable and isinstance(names, list) else vector_names(prefix, size)),)

    def about(self) -> dict[str, Any]:
        keys = ("codebase_version", "robot_type", "fps", "total_episodes", "total_frames", "splits")
        facts = {key: self.info.get(key) for key in keys}
        return {**facts, "features": {k: f"{f.get('dtype')} {f.get('shape')}" for k, f in self.features.items()}}


def _features(described: dict[str, Json]) -> dict[str, dict[str, Any]]:
    """Completes info.json's features with a shape and an info each; ValueError for a malformed one."""
    features = {}
    for name, feature in dict(described).items():
        if not isinstance(feature, dict):
            raise ValueError(f"the feature {name!r} is malformed")
        shape = feature.get("shape") or [1]
        if not isinstance(shape, list) or not all(isinstance(side, int) and 0 <= side < MOST for side in shape):
            raise ValueError(f"the feature {name!r} is malformed")
        # v2.0 called it video_info.
        info = feature.get("info") or feature.get("video_info")
        features[name] = {**feature, "shape": shape, "info": info if isinstance(info, dict) else {}}
    return features


def camera_name(key: str) -> str:
    """Returns a camera's short name: observation.images.front -> front."""
    return key.removeprefix("observation.images.").removeprefix("observation.").replace(".", "_")


def as_array(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Converts a column of numbers or lists of numbers to [T] or [T, …]."""
    pa = library("pyarrow", "reading LeRobot data")
    array = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if pa.types.is_fixed_size_list(array.type) and not pa.types.is_nested(array.type.value_type):
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)
    if pa.types.is_nested(array.type):
        return np.array(array.to_pylist())
    return array.to_numpy(zero_copy_only=False)


def _filled(template: str, names: dict[str, Any]) -> str:
    """Fills in a path template of info.json; ValueError if a field is unknown or has an unusual format."""
    import string

    known = {**{k: int(v) for k, v in names.items() if k != "video_key"}, "video_key": names.get("video_key", "")}
    for _, field, form, _ in string.Formatter().parse(template):
        # Other formats could pad a number to any length.
        if field is not None and (field not in known or not re.fullmatch("(0?[0-9]d)?", form or "")):
            raise ValueError(f"the path {template!r} has a malformed field {field!r}")
    return template.format(**known)


def _may_contain(file: pq.ParquetFile, group: int, number: int) -> bool:
    """Whether a row group may contain rows of an episode, judged by its statistics."""
    meta = file.metadata.row_group(group)
    for index in range(meta.num_columns):
        column = meta.column(index)
        if column.path_in_schema == "episode_index" and column.statistics is not None and column.statistics.has_min_max:
            low, high = column.statistics.min, column.statistics.max
            return not isinstance(low, int) or low <= number <= high
    return True


def _check_size(file: pq.ParquetFile, groups: Iterable[int], where: str) -> None:
    """Raises UserError if row groups are larger than a record may be."""
    size = sum(file.metadata.row_group(group).total_byte_size for group in groups)
    if not 0 <= size <= LIMIT:
        raise UserError(f"the file claims {size} bytes", where, f"at most {LIMIT} are read")
