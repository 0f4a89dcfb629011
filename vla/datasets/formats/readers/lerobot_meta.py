"""What a LeRobot data set says of itself in meta/: versions, features, tasks, episodes and where their files are."""

from __future__ import annotations

import contextlib
import json
import math
import re
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vla.datasets.formats.readers.base import Json, inside, matching
from vla.datasets.formats.readers.parquet import Parquet
from vla.errors import UserError

MOST = 10**9
"""Bound on the number of episodes, and on the number of steps of an episode."""
CHANNELS = (1, 3, 4)
"""Numbers of channels that images have."""
Feature = dict[str, Any]


class LeRobotMeta:
    """The content of a data set's folder meta/.

    Attributes:
        info: meta/info.json.
        version, fps: format version, and steps per second.
        features: name -> what info.json says of it; its shape is None if it is malformed.
        total: number of episodes.

    Raises:
        UserError: info.json is missing, damaged or of an unknown version.
    """

    def __init__(self, root: Path):
        self.root = root
        file = root / "meta/info.json"
        try:
            self.info = json.loads(file.read_bytes())
            self.version = str(self.info["codebase_version"])
            self.fps = float(self.info["fps"])
            self.features = {str(name): _feature(feature) for name, feature in dict(self.info["features"]).items()}
            self.total = int(self.info.get("total_episodes", 0))
            self.chunk = int(self.info.get("chunks_size", 1000))
        except OSError as error:
            raise UserError(f"the file cannot be read: {error.strerror}", str(file)) from error
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise UserError(f"the file is damaged or not LeRobot's: {error!r}", str(file), "copy the file again") from error
        if not self.version.startswith(("v2.", "v3.")) or not 0 < self.fps < 1e6 or self.chunk < 1:
            what = f"version {self.version} at {self.fps} frames per second is not supported"
            raise UserError(what, str(file), "v2.0, v2.1 and v3.0 are read")

    @property
    def file_per_episode(self) -> bool:
        """Whether each episode has files of its own (v2)."""
        return self.version.startswith("v2.")

    @property
    def videos(self) -> list[str]:
        """Names of the features that are videos."""
        return [name for name, f in self.features.items() if f.get("dtype") == "video"]

    def _lines(self, name: str) -> list[Any]:
        """Reads a file of meta/ with one JSON object per line; of a damaged line it gives the reason."""
        path, entries = self.root / "meta" / name, []
        try:
            with path.open("rb") as lines:
                for line in lines:
                    if line.strip():
                        entries.append("it is not JSON")
                        with contextlib.suppress(ValueError, RecursionError):
                            entries[-1] = json.loads(line)
        except OSError as error:
            raise UserError(f"the file cannot be read: {error.strerror}", str(path)) from error
        return entries

    def tasks(self, tables: Parquet) -> dict[int, str]:
        """Returns task_index -> text of the task, without damaged entries."""
        pairs: Iterable[Any]
        if self.file_per_episode:
            pairs = [(e.get("task_index"), e.get("task")) for e in self._lines("tasks.jsonl") if isinstance(e, dict)]
        else:
            table = tables.whole("meta/tasks.parquet").to_pydict()
            texts = table.get("task") or table.get("__index_level_0__") or []
            pairs = zip(table.get("task_index") or [], texts, strict=False)
        tasks = {}
        for index, text in pairs:
            with contextlib.suppress(TypeError, ValueError, OverflowError):
                if text is not None:
                    tasks[int(index)] = str(text)
        if not tasks:
            raise UserError("the list of tasks is damaged", f"{self.root}/meta", "copy it again")
        return tasks

    def episodes(self, tables: Parquet) -> list[Any]:
        """Returns the entries of all episodes, and of what is damaged the reason."""
        if self.file_per_episode:
            return self._lines("episodes.jsonl")
        entries, problem = [], None
        for path in matching(self.root / "meta/episodes", "*/*.parquet"):
            try:
                table = tables.whole(path.relative_to(self.root).as_posix())
            except UserError as error:
                problem = error
                entries.append(f"{path.name}: {error.what}")
                continue
            # The statistics, most of the table, are not needed.
            entries += table.select([n for n in table.column_names if not n.startswith("stats/")]).to_pylist()
        if not any(isinstance(entry, dict) for entry in entries):
            raise problem or UserError("the data set lists no episodes", str(self.root / "meta/episodes"))
        return entries

    def files(self, entry: dict[str, Any], videos: Iterable[str]) -> tuple[str, dict[str, tuple[str, float, float]]]:
        """Returns an episode's data file, and for each video its file and when the episode begins and ends in it, in seconds.

        Raises:
            ValueError: the entry is damaged.
            UserError: the paths of info.json are malformed, or a file lies outside the data set.
        """
        number = int(stated(entry, "episode_index"))
        names = {"episode_index": number, "episode_chunk": number // self.chunk}
        found, start, end = {}, 0.0, math.inf
        if not self.file_per_episode:
            names |= {f"{part}_index": int(stated(entry, f"data/{part}_index")) for part in ("chunk", "file")}
        data = self._filled("data_path", names)
        for key in videos:
            if not self.file_per_episode:
                names |= {f"{part}_index": int(stated(entry, f"videos/{key}/{part}_index")) for part in ("chunk", "file")}
                start = stated(entry, f"videos/{key}/from_timestamp")
                end = start + stated(entry, "length") / self.fps
                if entry.get(f"videos/{key}/to_timestamp") is not None:
                    end = stated(entry, f"videos/{key}/to_timestamp")
            found[key] = (self._filled("video_path", {**names, "video_key": key}), start, end)
        for path in (data, *(path for path, *_ in found.values())):
            inside(self.root, path, f"{self.root}/meta/info.json")
        return data, found

    def _filled(self, name: str, fields: dict[str, Any]) -> str:
        """Fills in a path template of info.json; UserError if a field is unknown or has an unusual format."""
        template, where = self.info.get(name), f"{self.root}/meta/info.json"
        try:
            used = [(field, form) for _, field, form, _ in string.Formatter().parse(template) if field is not None]
        except (ValueError, TypeError) as error:
            raise UserError(f"{name} is {template!r}", where, "copy the file again") from error
        for field, form in used:
            # Other formats could pad a number to any length.
            if field not in fields or not re.fullmatch("(0?[0-9]d)?", form or ""):
                raise UserError(f"the path {template!r} has a malformed field {field!r}", where, "copy the file again")
        return str(template).format(**fields)


def stated(entry: Any, key: str) -> float:
    """Returns a number of an episode's entry; ValueError if it is none, or out of bounds."""
    if not isinstance(entry, dict):
        raise ValueError(entry if isinstance(entry, str) else "it is no JSON object")
    value: Any = entry.get(key)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    if not 0 <= number < MOST:
        raise ValueError(f"{key} is {value!r:.40}")
    return number


def _feature(described: Json) -> Feature:
    """Completes a feature of info.json with a shape, which is None if it is malformed."""
    feature = described if isinstance(described, dict) else {}
    shape = feature.get("shape") or [1]
    usable = isinstance(shape, list) and all(isinstance(side, int) and 0 <= side < MOST for side in shape)
    return {**feature, "shape": shape if usable else None}


def is_depth(feature: Feature) -> bool:
    """Whether a camera's images are depth, by LeRobot's present mark and its older ones."""
    places = [feature.get("info"), feature.get("video_info")]
    return any(place.get("is_depth_map") or place.get("video.is_depth_map") for place in places if isinstance(place, dict))


def image_size(feature: Feature) -> tuple[int, int] | None:
    """Returns the (height, width) that a camera's names or, if they do not fit, its three channels tell; None if neither does."""
    shape, names = feature.get("shape"), feature.get("names")
    if shape is None or len(shape) != 3:
        return None
    if isinstance(names, list | dict) and len(names) == 3:
        # They may be "h" or "height", "w" or "width", in any order.
        sides = dict(zip((str(name)[:1].lower() for name in names), shape, strict=True))
        if sides.keys() > {"h", "w"} and math.prod(shape) in (channels * sides["h"] * sides["w"] for channels in CHANNELS):
            return sides["h"], sides["w"]
    if (shape[0] == 3) != (shape[2] == 3):
        height, width = shape[:2] if shape[2] == 3 else shape[1:]
        return height, width
    return None
