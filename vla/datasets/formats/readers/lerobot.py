"""Reads LeRobot data sets, versions 2.0, 2.1 and 3.0, with pyarrow and PyAV alone."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vla.datasets.card import FILE, DatasetCard
from vla.datasets.formats.conventions.from_card import from_card
from vla.datasets.formats.conventions.source_card import CameraKey, Part, SourceCard, vector_names
from vla.datasets.formats.readers.base import Columns, Field, InMemoryFrames, Raw, Reader, Ref, inside, matching
from vla.datasets.formats.readers.lerobot_meta import LeRobotMeta, is_depth, stated
from vla.datasets.formats.readers.parquet import Parquet, arrow, as_array
from vla.datasets.formats.video import TOLERANCE, VideoFrames
from vla.datasets.shards import decode_json
from vla.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

TIME = "timestamp"
Values = np.ndarray | list[Any] | InMemoryFrames
"""A column: numbers, texts or byte strings, or images."""
LISTED = 1000
"""Number of missing episodes that are listed one by one."""
END = "end"
"""Stands for the missing episodes that are not listed."""
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
        self.tables = Parquet(self.path)
        self.meta = LeRobotMeta(self.path)
        self.version, self.features = self.meta.version, self.meta.features
        self._task_texts: dict[int, str] | None = None
        self._moved: dict[int, str] = {}

    def tasks(self) -> dict[int, str]:
        """Returns task_index -> text of the task."""
        if self._task_texts is None:
            self._task_texts = self.meta.tasks(self.tables)
        return self._task_texts

    def refs(self) -> list[Ref]:
        return self._refs(self.meta.videos)

    def refs_for(self, card: SourceCard) -> list[Ref]:
        return self._refs([key for key in self.meta.videos if key in card.keys])

    def _refs(self, used: list[str]) -> list[Ref]:
        """Lists all episodes; of the videos only the used ones must be there."""
        entries = self.meta.episodes(self.tables)
        # Sorted by number; an entry without one stays behind the entry before it.
        numbered: list[tuple[float, Ref]] = []
        numbers, exists, last = set(), {}, -1.0
        for row, entry in enumerate(entries):
            name = f"{self.path}, entry {row}"
            try:
                number = int(stated(entry, "episode_index"))
                if number in numbers:
                    raise ValueError(f"episode {number} is listed twice")
                numbers.add(number)
                name, last = f"{self.path}, episode {number}", number
                length = int(stated(entry, "length"))
                data, videos = self.meta.files(entry, used)
            except ValueError as error:
                numbered.append((last, Ref(name, 0, (), f"its entry in meta/ is damaged: {error}")))
                continue
            files = [data, *(path for path, *_ in videos.values())]
            damage = next((f"{f} is missing" for f in files if not exists.setdefault(f, (self.path / f).is_file())), "")
            numbered.append((number, Ref(name, length, (number, data, videos), damage)))
        lacking, missing = max(self.meta.total - len(entries), 0), []
        # Where episodes were deleted the numbers do not tell which others are missing.
        if lacking and len(numbers) == len(entries) and max(numbers, default=0) < self.meta.total:
            missing = [n for n in range(min(self.meta.total, len(numbers) + LISTED)) if n not in numbers]
        numbered += [(n, Ref(f"{self.path}, episode {n}", 0, (), "the list of episodes lacks it")) for n in missing]
        if (more := lacking - len(missing)) > 0:
            numbered.append((math.inf, Ref(f"{self.path}, {END}", 0, (), f"the list of episodes lacks {more} more")))
        return [ref for _, ref in sorted(numbered, key=lambda entry: entry[0])]

    def read(self, ref: Ref) -> Raw:
        number, data, videos = ref.location
        names = self.tables.names(data, ref.name)
        known = [name for name in ("episode_index", "frame_index") if name in names]
        table = self.rows(data, number, ref.name, known)
        index = self._column(table, "frame_index", ref.name) if "frame_index" in names else None
        ordered = not isinstance(index, np.ndarray) or np.array_equal(index.ravel(), np.arange(ref.weight))
        if table.num_rows != ref.weight or not ordered:
            what = f"the episode has {table.num_rows} rows, not the frames 0 to {ref.weight - 1}"
            raise UserError(what, f"{ref.name}, {data}", "copy the file again")
        raw = Columns()
        for name in names:
            raw[name] = functools.partial(self._read_column, data, number, name, ref.name)
        times = functools.cache(lambda: self._times(data, number, ref, TIME in names))
        for key, (path, start, end) in videos.items():
            raw[key] = lambda path=path, start=start, end=end: VideoFrames(
                self.path / path, start, times(), f"{ref.name}, {path}", end
            )
        raw["task"] = functools.partial(self._instructions, raw, ref)
        if "next.done" in names:
            raw["terminate"] = functools.partial(self._stated, data, number, "next.done", ref.name)
        if EXTRA in names:
            raw["extra"] = functools.partial(self._extra, raw, ref)
        return raw

    def _instructions(self, raw: Raw, ref: Ref) -> list[str]:
        """Returns the text of each step's task."""
        tasks = self.tasks()
        indices = np.asarray(raw.get("task_index", np.zeros(ref.weight, int))).ravel()
        if indices.dtype.kind not in "fiu" or len(indices) != ref.weight:
            raise UserError("it holds no number for each step", f"{ref.name}, task_index", "copy the file again")
        unknown = sorted(set(indices.tolist()) - tasks.keys())
        if unknown:
            raise UserError(f"task_index is {unknown[0]}, but there are {len(tasks)} tasks", ref.name, "copy meta/ again")
        return [tasks[i] for i in indices.tolist()]

    def rows(self, data: str, number: int, where: str, columns: list[str]) -> pa.Table:
        """Reads columns of an episode from the data file that its entry names, or from the one that has it."""
        table = self.tables.rows(self._moved.get(number, data), number, where, columns)
        if table.num_rows or self.meta.file_per_episode:
            return table
        # Some releases of LeRobot wrote the file before instead, which LeRobot never noticed: it reads all files.
        for path in matching(self.path / "data", "**/*.parquet"):
            other = path.relative_to(self.path).as_posix()
            inside(self.path, other, where)
            if (elsewhere := self.tables.rows(other, number, where, columns)).num_rows:
                self._moved[number] = other
                return elsewhere
        return table

    def _times(self, data: str, number: int, ref: Ref, stated: bool) -> np.ndarray:
        """Returns the time of each step in seconds: its timestamp, or by the data set's rate if it has none."""
        regular = np.arange(ref.weight) / self.meta.fps
        stamps = self._stated(data, number, TIME, ref.name) if stated else None
        if stamps is None:
            return regular
        times = stamps.reshape(ref.weight, -1)[:, 0].astype(np.float64)
        if (np.diff(times) < 0).any():
            step = int(np.argmax(np.diff(times) < 0)) + 1
            raise UserError(f"the timestamp of step {step} is before that of the step before it", ref.name, "copy the file again")
        # Stored as float32 they are less exact, and some recorders round them to milliseconds.
        near = functools.partial(np.allclose, times, rtol=2**-23)
        return regular if near(regular, atol=TOLERANCE) or near(regular.round(3), atol=1e-6) else times

    def _stated(self, data: str, number: int, name: str, where: str) -> np.ndarray | None:
        """Returns a column of LeRobot's own; None if it holds no numbers in this data set."""
        table = self.rows(data, number, where, [name])
        if table[name].null_count == table.num_rows:
            return None
        values = self._column(table, name, where)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
            return None
        if not np.isfinite(values).all():
            raise UserError("a value is not finite", f"{where}, {name}")
        return values

    @staticmethod
    def _extra(raw: Raw, ref: Ref) -> list[dict[str, Any]]:
        return [decode_json(str(text or "{}").encode(), f"{ref.name}, {EXTRA}") for text in raw[EXTRA]]

    def cell(self, ref: Ref, name: str, row: int) -> Values:
        """Returns a column of an episode as `read` does, of one row alone."""
        number, data, _ = ref.location
        return self._column(self.rows(data, number, ref.name, [name]).slice(row, 1), name, ref.name)

    def _read_column(self, data: str, number: int, name: str, where: str) -> Values:
        return self._column(self.rows(data, number, where, [name]), name, where)

    def _column(self, table: pa.Table, name: str, where: str) -> Values:
        pa, _ = arrow()
        column, where = table[name], f"{where}, {name}"
        kind = column.type
        if column.null_count:
            raise UserError(f"{column.null_count} values are missing", where)
        if pa.types.is_struct(kind):
            fields = [field.name for field in kind]
            if "bytes" not in fields and "path" not in fields:
                raise UserError(f"it holds {', '.join(fields)} for each step, which is no image", where)
            return InMemoryFrames([self._image(entry, where) for entry in column.to_pylist()])
        texts_or_bytes = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
        if any(is_kind(kind) for is_kind in texts_or_bytes):
            return column.to_pylist()
        try:
            return as_array(column)
        except ValueError as error:
            raise UserError(f"the rows have different lengths: {error}", where) from error
        except (pa.ArrowException, TypeError) as error:
            raise UserError(f"values of type {kind} cannot be used: {error}", where) from error

    def _image(self, entry: dict[str, Any] | None, where: str) -> bytes:
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
        splits, ranges = {}, self.meta.info.get("splits")
        # By place, as numbers have gaps where episodes were deleted.
        names = [ref.name for ref in self._refs([]) if ref.name != f"{self.path}, {END}"] if isinstance(ranges, dict) else []
        for split, text in ranges.items() if isinstance(ranges, dict) else ():
            match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", str(text))
            if match:
                splits[split] = set(names[int(match[1]) : int(match[2])])
        return splits

    def card(self) -> SourceCard:
        cameras = {
            camera_name(key): CameraKey(key)
            for key, f in self.features.items()
            if f.get("dtype") in ("video", "image") and not is_depth(f)
        }
        # We wrote this data set: its card has limits, units and conventions.
        if (self.path / "meta" / FILE).is_file():
            return from_card(DatasetCard.load(self.path / "meta"), cameras, "action", "observation.state", ("task",))
        return SourceCard(
            title=self.path.name,
            embodiment=str(self.meta.info.get("robot_type") or "robot"),
            cameras=cameras,
            action=self._part(("action", "actions"), "a"),
            state=self._part(("observation.state", "state"), "s"),
            instruction=("task",),
            control_hz=self.meta.fps,
            stated=self._conventions(),
            conventions={"source": "read from info.json alone: gripper, rotation and frame are not said there"},
        )

    def _conventions(self) -> dict[str, str]:
        stated = {"control_hz": "fps in meta/info.json"}
        return stated | ({"embodiment": "robot_type in meta/info.json"} if self.meta.info.get("robot_type") else {})

    def fields(self) -> dict[str, Field]:
        """As info.json describes them, so that neither tables nor videos are needed."""
        kinds: dict[str, Literal["images", "texts"]] = {"video": "images", "image": "images", "string": "texts"}
        fields = {"task": Field("texts")}
        for name, feature in self.features.items():
            dtype = str(feature.get("dtype"))
            width = math.prod(feature["shape"] or [0])
            fields[name] = Field(kinds[dtype]) if dtype in kinds else Field("numbers", width, dtype)
        return fields

    def _part(self, keys: Sequence[str], prefix: str) -> tuple[Part, ...]:
        """Makes a card's part of a feature, LeRobot's or openpi's; () if there is none. Its own names are used if they are
        complete."""
        name = next((key for key in keys if key in self.features), None)
        if name is None:
            return ()
        feature = self.features[name]
        if feature["shape"] is None:
            what = f"info.json gives {name} the shape {self.meta.info['features'][name].get('shape')}"
            raise UserError(what, str(self.path), "write a card: --card FILE")
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
        facts = {key: self.meta.info.get(key) for key in keys}
        return {**facts, "features": {k: f"{f.get('dtype')} {f.get('shape')}" for k, f in self.features.items()}}


def camera_name(key: str) -> str:
    """Returns a camera's short name: observation.images.front -> front."""
    return key.removeprefix("observation.images.").removeprefix("observation.").replace(".", "_")
