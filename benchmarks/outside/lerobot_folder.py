"""Writes LeRobot data sets from the format's description, with what reports say of other people's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from outside.pixels import SIZE, encoded, film, level, plain

FILM, IMAGE = "observation.images.top", "observation.images.wrist"
TASKS = ("pick it", "place it")
Column = Callable[[int, int], pa.Array]
"""Makes a column of an episode with so many steps."""
DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
DATA3 = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO3 = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


def action(episode: int, length: int) -> np.ndarray:
    """Actions [T, 2] that tell the step and the episode."""
    return np.stack([np.arange(length) / 10, np.full(length, episode)], 1)


def vectors(values: np.ndarray, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(values.tolist(), pa.list_(kind or pa.float32(), values.shape[1]))


def images(make: Callable[[int, int], bytes]) -> Column:
    """A column of encoded images."""
    return lambda e, n: pa.array([{"bytes": make(e, t), "path": None} for t in range(n)])


def table(episode: int, length: int, fps: float, more: Mapping[str, Column | None]) -> pa.Table:
    columns: dict[str, Column | None] = {
        "action": lambda e, n: vectors(action(e, n)),
        "observation.state": lambda e, n: vectors(action(e, n) + 1),
        "timestamp": lambda e, n: pa.array(np.arange(n, dtype=np.float32) / np.float32(fps)),
        "frame_index": lambda e, n: pa.array(np.arange(n)),
        "episode_index": lambda e, n: pa.array(np.full(n, e)),
        "index": lambda e, n: pa.array(np.arange(n) + 100 * e),
        "task_index": lambda e, n: pa.array(np.full(n, e % 2)),
        **more,
    }
    return pa.table({name: make(episode, length) for name, make in columns.items() if make is not None})


def features(more: Mapping[str, Any]) -> dict[str, Any]:
    described = {
        "action": {"dtype": "float32", "shape": [2], "names": ["x", "gripper"]},
        "observation.state": {"dtype": "float32", "shape": [2], "names": ["a", "b"]},
        FILM: video(),
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **{n: {"dtype": "int64", "shape": [1], "names": None} for n in ("frame_index", "episode_index", "index", "task_index")},
        **more,
    }
    return {name: feature for name, feature in described.items() if feature is not None}


def video(names: Any = ("height", "width", "channels"), shape: Sequence[int] = (*SIZE, 3), **info: Any) -> dict[str, Any]:
    """A camera's feature."""
    return {"dtype": "video", "shape": list(shape), "names": list(names) if names else names, "info": info or {"video.fps": 10}}


def frames(episode: int, length: int) -> list[np.ndarray]:
    return [plain(level(episode, t)) for t in range(length)]


def write(
    folder: Path,
    lengths: Sequence[int] | Mapping[int, int] = (4, 3),
    version: str = "v2.1",
    fps: float = 10,
    columns: Mapping[str, Column | None] | None = None,
    described: Mapping[str, Any] | None = None,
    info: Mapping[str, Any] | None = None,
    tasks: Sequence[str] = TASKS,
    films: Mapping[str, Callable[[int, int], list[np.ndarray]]] | None = None,
    encoding: Mapping[str, Any] | None = None,
    film_fps: float | Fraction = 0,
) -> Path:
    """Writes a data set; version v3.0 has all episodes in one data file and one film per camera.

    Args:
        lengths: steps of each episode, by its number.
        columns, described, info: columns of the tables, features and entries of info.json to add, replace or (None) leave out.
        films: feature -> the frames of an episode.
        encoding: arguments of `film`.
        film_fps: frames per second of the films; 0 is `fps`.
    """
    episodes = dict(lengths) if isinstance(lengths, Mapping) else dict(enumerate(lengths))
    films = {FILM: frames} if films is None else films
    old = version.startswith("v2.")
    content = {
        "codebase_version": version,
        "robot_type": "so100",
        "total_episodes": len(episodes),
        "total_frames": sum(episodes.values()),
        "total_tasks": len(tasks),
        "chunks_size": 1000,
        "fps": fps,
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": DATA if old else DATA3,
        "video_path": VIDEO if old else VIDEO3,
        "features": features(described or {}),
        **(info or {}),
    }
    (folder / "meta").mkdir(parents=True)
    (folder / "meta/info.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    tables = {e: table(e, n, fps, columns or {}) for e, n in episodes.items()}
    rate, encoding = film_fps or fps, dict(encoding or {})
    if old:
        lines(folder / "meta/tasks.jsonl", [{"task_index": i, "task": task} for i, task in enumerate(tasks)])
        lines(folder / "meta/episodes.jsonl", [{"episode_index": e, "tasks": [], "length": n} for e, n in episodes.items()])
        for e, n in episodes.items():
            names = {"episode_chunk": e // content["chunks_size"], "episode_index": e}
            save(tables[e], folder / DATA.format(**names))
            for key, make in films.items():
                film(folder / VIDEO.format(video_key=key, **names), make(e, n), rate, **encoding)
        return folder
    save(pa.concat_tables(tables.values()), folder / DATA3.format(chunk_index=0, file_index=0))
    entries, start = [], 0
    for e, n in episodes.items():
        entry = {"episode_index": e, "tasks": [], "length": n, "data/chunk_index": 0, "data/file_index": 0}
        entry |= {"dataset_from_index": start, "dataset_to_index": start + n}
        for key in films:
            entry |= {f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": 0}
            entry |= {f"videos/{key}/from_timestamp": start / fps, f"videos/{key}/to_timestamp": (start + n) / fps}
        entries.append(entry)
        start += n
    save(pa.Table.from_pylist(entries), folder / "meta/episodes/chunk-000/file-000.parquet")
    save(pa.table({"task_index": list(range(len(tasks))), "__index_level_0__": list(tasks)}), folder / "meta/tasks.parquet")
    for key, make in films.items():
        everything = [frame for e, n in episodes.items() for frame in make(e, n)]
        film(folder / VIDEO3.format(video_key=key, chunk_index=0, file_index=0), everything, rate, **encoding)
    return folder


def pictured(folder: Path, lengths: Sequence[int] | Mapping[int, int] = (4, 3), **changes: Any) -> Path:
    """A data set whose images are in its tables: no film."""
    columns = {IMAGE: images(lambda e, t: encoded(plain(level(e, t)))), **changes.pop("columns", {})}
    feature = {"dtype": "image", "shape": [*SIZE, 3], "names": ["height", "width", "channels"]}
    described = {FILM: None, IMAGE: feature, **changes.pop("described", {})}
    return write(folder, lengths, columns=columns, described=described, films={}, **changes)


def episodes_table(folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Changes the list of episodes of a v3.0 data set."""
    path = folder / "meta/episodes/chunk-000/file-000.parquet"
    entries = pq.read_table(path).to_pylist()
    change(entries)
    pq.write_table(pa.Table.from_pylist(entries), path)


def save(content: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, path)


def lines(path: Path, entries: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))
