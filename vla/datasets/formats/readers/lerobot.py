"""LeRobot data sets, versions 2.0, 2.1 and 3.0, read with pyarrow and PyAV alone."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vla.datasets.card import FILE, DatasetCard
from vla.datasets.formats.conventions.from_card import from_card
from vla.datasets.formats.conventions.source_card import CameraKey, Part, SourceCard, vector_names
from vla.datasets.formats.readers.base import LIMIT, Listed, Raw, Reader, Ref, inside, library
from vla.datasets.formats.video import VideoFrames
from vla.datasets.shards import decode_json
from vla.errors import UserError

MOST, LISTED = 10**9, 1000
"""No data set has as many episodes, and no episode as many steps; so many that are missing are named one by one."""
EXTRA = "annotation.vla"
"""A column of our own: what our shards say of a step and LeRobot has no name for, as JSON."""


class LeRobotReader(Reader):
    """A folder with meta/info.json, data/ and videos/.

    Raises:
        UserError: pyarrow is not installed; no info.json, or one that is damaged or of an unknown version.
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
            raise UserError(f"it cannot be read: {error.strerror}", str(file)) from error
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise UserError(f"damaged, or not LeRobot's: {error!r}", str(file), "copy the file again") from error
        if not self.version.startswith(("v2.", "v3.")) or not 0 < self.fps < 1e6 or self.chunk < 1:
            raise UserError(f"version {self.version}, {self.fps} frames per second", str(file), "v2.0, v2.1 and v3.0 are read")
        self._file: tuple[str, Any] = ("", None)
        self._words: dict[int, str] | None = None

    @staticmethod
    def _arrow() -> tuple[Any, Any]:
        return library("pyarrow", "reading LeRobot data"), library("pyarrow.parquet", "reading LeRobot data")

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_file": ("", None)}

    @property
    def whole(self) -> bool:
        """Whether an episode has files of its own (v2)."""
        return self.version.startswith("v2.")

    @property
    def videos(self) -> list[str]:
        return [name for name, f in self.features.items() if f.get("dtype") == "video"]

    def _lines(self, name: str) -> list[dict[str, Any]]:
        path, entries = self.path / "meta" / name, []
        try:
            with path.open("rb") as lines:
                entries = [json.loads(line) for line in lines if line.strip()]
        except OSError as error:
            raise UserError(f"it cannot be read: {error.strerror}", str(path)) from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"it holds a line that is not JSON: {error}", str(path), "copy the file again") from error
        return entries

    def tasks(self) -> dict[int, str]:
        """task_index -> what is to be done."""
        if self._words is None:
            try:
                if self.whole:
                    self._words = {int(entry["task_index"]): str(entry["task"]) for entry in self._lines("tasks.jsonl")}
                else:
                    table = self._parquet(self.path / "meta/tasks.parquet").to_pydict()
                    words = table.get("task") or table["__index_level_0__"]
                    self._words = {int(i): str(text) for i, text in zip(table["task_index"], words, strict=True)}
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise UserError(f"the list of tasks is damaged: {error!r}", f"{self.path}/meta", "copy it again") from error
        return self._words

    def _parquet(self, path: Path) -> Any:
        """A whole (small) file as a table."""
        pa, pq = self._arrow()
        try:
            file = pq.ParquetFile(path)
            _bounded(file, range(file.num_row_groups), str(path))
            return file.read()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(f"it cannot be read: {error}", str(path), "copy the file again") from error

    def refs(self) -> list[Ref]:
        entries = self._lines("episodes.jsonl") if self.whole else self._episodes()
        refs, there, seen = [], {}, set()
        for row, entry in enumerate(entries):
            try:
                number, length = int(entry["episode_index"]), int(entry["length"])
                if not (0 <= number < MOST and 0 <= length < MOST) or number in seen:
                    raise ValueError(f"episode {number} of {length} steps, or twice")
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                refs.append(Ref(f"{self.path}, entry {row}", 0, (MOST,), f"what meta/ says of it is damaged: {error!r}"))
                continue
            seen.add(number)
            data, videos = self._places(entry)
            files = [data, *(path for path, _ in videos.values())]
            damage = next((f"{f} is missing" for f in files if not there.setdefault(f, (self.path / f).is_file())), "")
            refs.append(Ref(f"{self.path}, episode {number}", length, (number, data, videos), damage))
        lost = [n for n in range(min(self.total, len(seen) + LISTED)) if n not in seen]
        refs += [Ref(f"{self.path}, episode {n}", 0, (n,), "the list of episodes lacks it") for n in lost]
        if (more := self.total - len(seen) - len(lost)) > 0:
            refs.append(Ref(f"{self.path}, end", 0, (MOST,), f"the list of episodes lacks {more} more"))
        return sorted(refs, key=lambda ref: ref.place[0])

    def _episodes(self) -> list[dict[str, Any]]:
        entries = []
        for path in sorted((self.path / "meta/episodes").glob("*/*.parquet")):
            table = self._parquet(path)
            # Statistics are most of it.
            entries += table.select([n for n in table.column_names if not n.startswith("stats/")]).to_pylist()
        if not entries:
            raise UserError("it lists no episodes", str(self.path / "meta/episodes"))
        return entries

    def _places(self, entry: dict[str, Any]) -> tuple[str, dict[str, tuple[str, float]]]:
        """An episode's data file, and for each video its file and the second it begins at."""
        number = int(entry["episode_index"])
        names = {"episode_index": number, "episode_chunk": number // self.chunk}
        videos, start = {}, 0.0
        try:
            if not self.whole:
                names |= {"chunk_index": entry["data/chunk_index"], "file_index": entry["data/file_index"]}
            data = _filled(self.data_path, names)
            for key in self.videos:
                at = {**names, "video_key": key}
                if not self.whole:
                    at |= {f"{part}_index": entry[f"videos/{key}/{part}_index"] for part in ("chunk", "file")}
                    start = float(entry[f"videos/{key}/from_timestamp"])
                    if not 0 <= start < MOST:
                        raise ValueError(f"a video that begins at {start} s")
                videos[key] = (_filled(str(self.info["video_path"]), at), start)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            what = f"what meta/ says of it is damaged, or lacks something: {error}"
            raise UserError(what, f"{self.path}, episode {number}", "copy meta/ again") from error
        for path in (data, *(path for path, _ in videos.values())):
            inside(self.path, path, f"{self.path}/meta/info.json")
        return data, videos

    def read(self, ref: Ref) -> Raw:
        number, data, videos = ref.place
        raw: Raw = {}
        table = self.rows(data, number, ref.name)
        for name in table.column_names:
            raw[name] = self._column(name, table[name], ref.name)
        index = raw.get("frame_index")
        if table.num_rows != ref.weight or (isinstance(index, np.ndarray) and (index.ravel() != np.arange(len(index))).any()):
            raise UserError(
                f"it has {table.num_rows} rows, not the frames 0 to {ref.weight - 1}", f"{ref.name}, {data}", "copy it again"
            )
        for key, (path, start) in videos.items():
            raw[key] = VideoFrames(self.path / path, start, ref.weight, self.fps, f"{ref.name}, {path}")
        raw["task"] = self._said(raw, ref)
        if "next.done" in raw:
            raw["terminate"] = raw["next.done"]
        if EXTRA in raw:
            raw["extra"] = [decode_json(str(text or "{}").encode(), f"{ref.name}, {EXTRA}") for text in raw.pop(EXTRA)]
        return raw

    def _said(self, raw: Raw, ref: Ref) -> list[str]:
        tasks = self.tasks()
        indices = np.asarray(raw.get("task_index", np.zeros(ref.weight, int))).ravel().tolist()
        unknown = sorted(set(indices) - tasks.keys())
        if unknown:
            raise UserError(f"task_index {unknown[0]}, but there are {len(tasks)} tasks", ref.name, "copy meta/ again")
        return [tasks[i] for i in indices]

    def rows(self, data: str, number: int, where: str, columns: list[str] | None = None) -> Any:
        """An episode's rows as a table; UserError for a damaged file."""
        pa, pq = self._arrow()
        path = str(self.path / data)
        try:
            if self._file[0] != path:
                self._file = (path, pq.ParquetFile(path))
            file = self._file[1]
            groups = [g for g in range(file.num_row_groups) if _may_hold(file, g, number)]
            _bounded(file, groups, f"{where}, {data}")
            table = file.read_row_groups(groups, columns=columns)
            if "episode_index" in table.column_names:
                pc = library("pyarrow.compute", "reading LeRobot data")
                table = table.filter(pc.equal(table["episode_index"], number))
            return table
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise UserError(f"it cannot be read: {error}", f"{where}, {data}", "copy the file again") from error

    def _column(self, name: str, column: Any, where: str) -> Any:
        pa, _ = self._arrow()
        kind, where = column.type, f"{where}, {name}"
        if column.null_count:
            raise UserError(f"{column.null_count} values are missing", where)
        if pa.types.is_struct(kind):
            return Listed([self._picture(entry, where) for entry in column.to_pylist()])
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return column.to_pylist()
        try:
            return as_array(column)
        except ValueError as error:
            raise UserError(f"its rows have different lengths: {error}", where) from error

    def _picture(self, entry: dict[str, Any] | None, where: str) -> bytes:
        if entry and entry.get("bytes"):
            return entry["bytes"]
        if not entry or not isinstance(entry.get("path"), str):
            raise UserError("a picture is missing", where)
        path = inside(self.path, entry["path"], where)
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"the picture {entry['path']} cannot be read: {error.strerror}", where) from error

    def splits(self) -> Mapping[str, set[str] | None]:
        found, said = {}, self.info.get("splits")
        refs = self.refs() if isinstance(said, dict) else []
        for split, text in said.items() if isinstance(said, dict) else ():
            match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", str(text))
            if match:
                found[split] = {ref.name for ref in refs if int(match[1]) <= ref.place[0] < int(match[2])}
        return found

    def card(self) -> SourceCard:
        pictures = {
            camera_name(key): CameraKey(key)
            for key, f in self.features.items()
            if f.get("dtype") in ("video", "image") and not f["info"].get("video.is_depth_map")
        }
        # Written by us: limits, units and conventions come back as they were.
        if (self.path / "meta" / FILE).is_file():
            return from_card(DatasetCard.load(self.path / "meta"), pictures, "action", "observation.state", ("task",))
        return SourceCard(
            title=self.path.name,
            embodiment=str(self.info.get("robot_type") or "robot"),
            cameras=pictures,
            action=self._part("action", "a"),
            state=self._part("observation.state", "s"),
            instruction=("task",),
            control_hz=self.fps,
            conventions={"source": "read from info.json alone: gripper, rotation and frame are not said there"},
        )

    def _part(self, name: str, prefix: str) -> tuple[Part, ...]:
        feature = self.features.get(name)
        if feature is None:
            return ()
        size = math.prod(feature["shape"])
        names = feature.get("names")
        if isinstance(names, dict):
            names = [n for value in names.values() for n in (value if isinstance(value, list) else [value])]
        good = (
            isinstance(names, list) and len(names) == size and all(isinstance(n, str) for n in names) and len(set(names)) == size
        )
        return (Part(name, tuple(names) if good and isinstance(names, list) else vector_names(prefix, size)),)

    def about(self) -> dict[str, Any]:
        said = {
            k: self.info.get(k) for k in ("codebase_version", "robot_type", "fps", "total_episodes", "total_frames", "splits")
        }
        return {**said, "features": {k: f"{f.get('dtype')} {f.get('shape')}" for k, f in self.features.items()}}


def _features(said: Any) -> dict[str, dict[str, Any]]:
    """info.json's features with a shape and an info each; ValueError for what is none."""
    found = {}
    for name, feature in dict(said).items():
        shape = feature.get("shape") or [1] if isinstance(feature, dict) else None
        if not isinstance(shape, list) or not all(isinstance(side, int) and 0 <= side < MOST for side in shape):
            raise ValueError(f"the feature {name!r}")
        # v2.0 called it video_info.
        info = feature.get("info") or feature.get("video_info")
        found[name] = {**feature, "shape": shape, "info": info if isinstance(info, dict) else {}}
    return found


def camera_name(key: str) -> str:
    """observation.images.front -> front."""
    return key.removeprefix("observation.images.").removeprefix("observation.").replace(".", "_")


def as_array(column: Any) -> np.ndarray:
    """A column of numbers or lists of numbers as [T] or [T, …]."""
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
    """A path of info.json with its numbers; ValueError for anything that is not a plain field."""
    import string

    known = {**{k: int(v) for k, v in names.items() if k != "video_key"}, "video_key": names.get("video_key", "")}
    for _, field, form, _ in string.Formatter().parse(template):
        # A number may not be filled up to any length.
        if field is not None and (field not in known or not re.fullmatch("(0?[0-9]d)?", form or "")):
            raise ValueError(f"{field!r} in the path {template!r}")
    return template.format(**known)


def _may_hold(file: Any, group: int, number: int) -> bool:
    """Whether a row group may have rows of an episode, by its statistics."""
    meta = file.metadata.row_group(group)
    for place in range(meta.num_columns):
        column = meta.column(place)
        if column.path_in_schema == "episode_index" and column.statistics is not None and column.statistics.has_min_max:
            low, high = column.statistics.min, column.statistics.max
            return not isinstance(low, int) or low <= number <= high
    return True


def _bounded(file: Any, groups: Any, where: str) -> None:
    size = sum(file.metadata.row_group(group).total_byte_size for group in groups)
    if not 0 <= size <= LIMIT:
        raise UserError(f"it claims {size} bytes", where, f"at most {LIMIT} are read")
