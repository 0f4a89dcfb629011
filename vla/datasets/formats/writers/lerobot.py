"""Writes LeRobot v3.0: each part of a conversion is one data file and one video per camera."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import rearrange

from vla import hub
from vla.datasets.card import DatasetCard
from vla.datasets.formats.conventions.prepare import PreparedEpisode
from vla.datasets.formats.images import decode
from vla.datasets.formats.job import PARTS, Job, Numbered
from vla.datasets.formats.notes import Tally, column, info_of
from vla.datasets.formats.readers.base import library
from vla.datasets.formats.readers.lerobot import EXTRA
from vla.datasets.formats.statistics.moments import summary
from vla.datasets.formats.statistics.schemes import BINS, LEROBOT, Histogram, Statistics, lerobot, lerobot_episode
from vla.datasets.formats.video import VideoWriter
from vla.datasets.formats.writers.shards import constants, conventions, embodiment, sha256
from vla.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
CHUNK = 1000
TASK, LOCAL = "task", "episode"
"""Columns of a part's temporary file that become indices when all parts are complete."""


class LeRobotSink:
    """Writer of robot episodes as data files and videos, with statistics."""

    def write(self, job: Job, number: int, part: Numbered) -> dict[str, Any]:
        tally, episodes, actions, states = Tally(), [], [], []
        path = job.folder / PARTS / f"data-{number:06d}.parquet"
        with contextlib.ExitStack() as stack:
            videos = {}
            if job.options.video != "none":
                for name in job.card.cameras:
                    target = _video(job, name, number).with_suffix(".tmp.mp4")
                    videos[name] = stack.enter_context(VideoWriter(target, _rate(job), job.options.video))
            writer = stack.enter_context(_parquet_writer(path, _schema(job)))
            start = 0
            for _, ref in part:
                with tally.counting(ref, job.options.skip):
                    episode = job.episode(ref)
                    # Frames cannot be removed from a video: all images must be readable before the first is encoded.
                    images = list(job.images(episode, ref))
                    levels = {name: PixelLevels(len(episode)) for name in videos or job.card.cameras}
                    for step, jpegs in enumerate(images):
                        for name, data in jpegs.items():
                            if name in videos or levels[name].wants(step):
                                pixels = decode(data, ref.name)
                                levels[name].add(step, pixels)
                                if name in videos:
                                    videos[name].write(pixels)
                    writer.write_table(_rows(job, episode, images, len(episodes)))
                    statistics = {f"observation.images.{name}": each.statistics() for name, each in levels.items()}
                    statistics |= _vectors(job, episode)
                    lists = {k: {n: np.asarray(v).tolist() for n, v in s.items()} for k, s in statistics.items()}
                    tasks = sorted(set(episode.instruction))
                    episodes.append({"length": len(episode), "tasks": tasks, "start": start, "stats": lists})
                    start += len(episode)
                    actions.append(episode.action)
                    states.append(episode.state)
                    tally.add(episode)
        for name in videos:
            target = _video(job, name, number)
            temporary = target.with_suffix(".tmp.mp4")
            if episodes:
                os.replace(temporary, target)
            else:
                temporary.unlink(missing_ok=True)
        width = {name: sum(len(p.names) for p in getattr(job.card, name)) for name in ("action", "state")}
        return {
            "info": {**tally.plain(), "episodes": episodes},
            "action": np.concatenate([np.zeros((0, width["action"]), np.float32), *actions]),
            "state": np.concatenate([np.zeros((0, width["state"]), np.float32), *states]),
        }

    def finish(self, job: Job, notes: list[Path]) -> dict[str, Any]:
        _, pq = _arrow()
        tasks: dict[str, int] = {}
        names: dict[str, None] = {}
        episode = frame = 0
        for number, note in enumerate(notes):
            entries = info_of(note)["episodes"]
            if not entries:
                continue
            for entry in entries:
                for text in entry["tasks"]:
                    tasks.setdefault(text, len(tasks))
                names |= dict.fromkeys(entry["stats"])
            _data(job, number, episode, frame, tasks)
            _episodes(job, number, entries, episode, frame)
            episode += len(entries)
            frame += sum(entry["length"] for entry in entries)
        if not episode:
            raise UserError("no episode could be written", job.options.source, "check the data set: vla data check")
        meta = job.folder / "meta"
        pq.write_table(_tasks(tasks), meta / "tasks.parquet")
        statistics = {name: {k: v.tolist() for k, v in lerobot(_episode_statistics(notes, name)).items()} for name in names}
        (meta / "stats.json").write_text(json.dumps(statistics, indent=4))
        (meta / "info.json").write_text(json.dumps(_info(job, episode, frame, len(tasks)), indent=4))
        spec = embodiment(job, {name: summary(column(notes, name)) for name in ("action", "state")})
        DatasetCard(
            name=job.card.title or Path(hub.without_revision(job.options.source)).name,
            kind="robot",
            embodiment=job.card.embodiment,
            spec=spec,
            counts={"episodes": episode, "steps": frame},
            conventions=conventions(job.card),
            generator={"command": "vla data convert", "format": job.reader.format, "source": hub.recorded(job.options.source)},
        ).save(meta)
        written = sorted(path for top in ("data", "meta", "videos") for path in (job.folder / top).rglob("*.*") if path.is_file())
        digests = {path.relative_to(job.folder).as_posix(): sha256(path) for path in written}
        return {"tasks": len(tasks), "constant": constants(spec), "sha256": digests}


def _episode_statistics(notes: list[Path], name: str) -> Iterator[Statistics]:
    """Yields every episode's statistics of the named feature."""
    for note in notes:
        for entry in info_of(note)["episodes"]:
            yield {key: np.array(value) for key, value in entry["stats"][name].items()}


class PixelLevels:
    """Pixel levels of some of an episode's images, for statistics; large images are subsampled (lerobot, compute_stats)."""

    def __init__(self, length: int):
        count = max(min(100, length), min(int(length**0.75), 10_000))
        self.chosen = set(np.round(np.linspace(0, length - 1, count)).astype(int).tolist())
        self.counts = np.zeros((3, 256), np.int64)

    def wants(self, step: int) -> bool:
        """Whether a step's image is among those that are counted."""
        return step in self.chosen

    def add(self, step: int, pixels: np.ndarray) -> None:
        """Counts the levels of an image, uint8 [H, W, 3], if the step is wanted."""
        if not self.wants(step):
            return
        height, width = pixels.shape[:2]
        stride = int(max(height, width) / 150) if max(height, width) >= 300 else 1
        for channel in range(3):
            self.counts[channel] += np.bincount(pixels[::stride, ::stride, channel].ravel(), minlength=256)

    def statistics(self) -> Statistics:
        """Returns min, max, mean, std and quantiles [3, 1, 1], scaled to 0..1, and the number of images."""
        levels, histogram = np.arange(256.0), Histogram()
        histogram.count = int(self.counts[0].sum())
        present = [levels[counts > 0] for counts in self.counts]
        histogram.low, histogram.high = np.array([v.min() for v in present]), np.array([v.max() for v in present])
        histogram.mean = self.counts @ levels / histogram.count
        histogram.square = self.counts @ levels**2 / histogram.count
        histogram.edges = [
            np.linspace(a - 1e-10, b + 1e-10, BINS + 1) for a, b in zip(histogram.low, histogram.high, strict=True)
        ]
        histogram.counts = [np.histogram(levels, bins=e, weights=c)[0] for e, c in zip(histogram.edges, self.counts, strict=True)]
        statistics = {"min": histogram.low, "max": histogram.high, "mean": histogram.mean, "std": histogram.std}
        statistics |= {name: histogram.quantile(share, within=True) for name, share in LEROBOT.items()}
        return {**{k: rearrange(v, "c -> c 1 1") / 255 for k, v in statistics.items()}, "count": np.array([len(self.chosen)])}


def _arrow() -> tuple[ModuleType, ModuleType]:
    return library("pyarrow", "writing LeRobot data"), library("pyarrow.parquet", "writing LeRobot data")


def _rate(job: Job) -> float:
    return job.options.changes.rate or job.card.control_hz


def _video(job: Job, camera: str, number: int) -> Path:
    chunk, file = divmod(number, CHUNK)
    return job.folder / VIDEO.format(video_key=f"observation.images.{camera}", chunk_index=chunk, file_index=file)


def _names(job: Job, space: str) -> list[str]:
    return [name for part in getattr(job.card, space) for name in part.names]


def _schema(job: Job) -> pa.Schema:
    """Returns the schema of a part's temporary file."""
    pa, _ = _arrow()

    def vector(space: str) -> pa.DataType:
        # LeRobot stores a vector of one value as a scalar.
        size = len(_names(job, space))
        return pa.float32() if size == 1 else pa.list_(pa.float32(), size)

    fields = [("action", vector("action"))]
    if job.card.state:
        fields.append(("observation.state", vector("state")))
    if job.options.video == "none":
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        fields += [(f"observation.images.{name}", image) for name in job.card.cameras]
    fields += [("next.done", pa.bool_()), (EXTRA, pa.string()), ("timestamp", pa.float32())]
    return pa.schema([*fields, ("frame_index", pa.int64()), (LOCAL, pa.int64()), (TASK, pa.string())])


@contextlib.contextmanager
def _parquet_writer(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Opens a Parquet file, which gets its name when it is complete."""
    _, pq = _arrow()
    with pq.ParquetWriter(path.with_suffix(".tmp"), schema) as writer:
        yield writer
    os.replace(path.with_suffix(".tmp"), path)


def _rows(job: Job, episode: PreparedEpisode, images: list[dict[str, bytes]], local: int) -> pa.Table:
    """Converts an episode to a table of the part's schema."""
    pa, _ = _arrow()
    schema, length = _schema(job), len(episode)
    columns: dict[str, np.ndarray | list] = {
        "action": episode.action.ravel() if episode.action.shape[1] == 1 else list(episode.action),
        "observation.state": episode.state.ravel() if episode.state.shape[1] == 1 else list(episode.state),
        "next.done": episode.terminate,
        EXTRA: [json.dumps(e, sort_keys=True) if e else "" for e in episode.extra],
        "timestamp": (np.arange(length) / _rate(job)).astype(np.float32),
        "frame_index": np.arange(length),
        LOCAL: np.full(length, local),
        TASK: episode.instruction,
    }
    for name in job.card.cameras:
        columns[f"observation.images.{name}"] = [
            {"bytes": jpegs[name], "path": f"frame-{i:06d}.jpg"} for i, jpegs in enumerate(images)
        ]
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema)


def _vectors(job: Job, episode: PreparedEpisode) -> dict[str, Statistics]:
    statistics = {"action": lerobot_episode(episode.action)}
    if job.card.state:
        statistics["observation.state"] = lerobot_episode(episode.state)
    return statistics


def _data(job: Job, number: int, episode: int, frame: int, tasks: dict[str, int]) -> None:
    """Writes a part's data file, with its indices, an episode at a time."""
    pa, pq = _arrow()
    chunk, file = divmod(number, CHUNK)
    target = job.folder / DATA.format(chunk_index=chunk, file_index=file)
    target.parent.mkdir(parents=True, exist_ok=True)
    kept = [f for f in _schema(job) if f.name not in (LOCAL, TASK)]
    added = [pa.field(name, pa.int64()) for name in ("episode_index", "index", "task_index")]
    source = pq.ParquetFile(job.folder / PARTS / f"data-{number:06d}.parquet")
    with _parquet_writer(target, pa.schema([*kept, *added])) as writer:
        for group in range(source.num_row_groups):
            table = source.read_row_group(group)
            count = table.num_rows
            indices = [
                pa.array(table[LOCAL].to_numpy() + episode),
                pa.array(np.arange(frame, frame + count)),
                pa.array([tasks[text] for text in table[TASK].to_pylist()], pa.int64()),
            ]
            table = pa.table([*(table[f.name] for f in kept), *indices], pa.schema([*kept, *added]))
            writer.write_table(table)
            frame += count


def _episodes(job: Job, number: int, entries: list[dict[str, Any]], episode: int, frame: int) -> None:
    """Writes a part's file of meta/episodes: where each episode is, and its statistics."""
    pa, pq = _arrow()
    chunk, file = divmod(number, CHUNK)
    rows = []
    for local, entry in enumerate(entries):
        first, length = entry["start"], entry["length"]
        row = {"episode_index": episode + local, "tasks": entry["tasks"], "length": length}
        row |= {"data/chunk_index": chunk, "data/file_index": file}
        row |= {"dataset_from_index": frame + first, "dataset_to_index": frame + first + length}
        for name in job.card.cameras if job.options.video != "none" else ():
            key = f"videos/observation.images.{name}"
            row |= {f"{key}/chunk_index": chunk, f"{key}/file_index": file}
            row |= {f"{key}/from_timestamp": first / _rate(job), f"{key}/to_timestamp": (first + length) / _rate(job)}
        row |= {f"stats/{name}/{k}": v for name, s in entry["stats"].items() for k, v in s.items()}
        rows.append({**row, "meta/episodes/chunk_index": chunk, "meta/episodes/file_index": file})
    target = job.folder / f"meta/episodes/chunk-{chunk:03d}/file-{file:03d}.parquet"
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), target)


def _tasks(tasks: dict[str, int]) -> pa.Table:
    """Makes the table of tasks, with their texts as pandas' index, as LeRobot expects."""
    pa, _ = _arrow()
    index = "__index_level_0__"

    def column_info(field: str | None, name: str, kind: str, numpy_type: str) -> dict[str, Any]:
        return {"name": field, "field_name": name, "pandas_type": kind, "numpy_type": numpy_type, "metadata": None}

    columns = [column_info("task_index", "task_index", "int64", "int64"), column_info(None, index, "unicode", "object")]
    names = [{**column_info(None, "", "unicode", "object"), "field_name": None, "metadata": {"encoding": "UTF-8"}}]
    pandas = {"index_columns": [index], "column_indexes": names, "columns": columns, "pandas_version": "2.0.0"}
    table = pa.table({"task_index": pa.array(tasks.values(), pa.int64()), index: pa.array(tasks, pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _info(job: Job, episodes: int, frames: int, tasks: int) -> dict[str, Any]:
    """Returns the content of meta/info.json."""
    rate = _rate(job)

    def feature(dtype: str, *shape: int, names: list[str] | None = None) -> dict[str, Any]:
        return {"dtype": dtype, "shape": list(shape), "names": names}

    features = {"action": feature("float32", len(_names(job, "action")), names=_names(job, "action"))}
    if job.card.state:
        features["observation.state"] = feature("float32", len(_names(job, "state")), names=_names(job, "state"))
    for name, ready in job.ready.items():
        image = feature("image", ready.height, ready.width, 3, names=["height", "width", "channels"])
        if job.options.video != "none":
            video = {"height": ready.height, "width": ready.width, "codec": job.options.video, "pix_fmt": "yuv420p"}
            video |= {"is_depth_map": False, "fps": _number(rate), "channels": 3}
            image |= {"dtype": "video", "info": {f"video.{k}": v for k, v in video.items()} | {"has_audio": False}}
        features[f"observation.images.{name}"] = image
    features |= {"next.done": feature("bool", 1), EXTRA: feature("string", 1), "timestamp": feature("float32", 1)}
    features |= {name: feature("int64", 1) for name in ("frame_index", "episode_index", "index", "task_index")}
    return {
        "codebase_version": "v3.0",
        "robot_type": job.card.embodiment,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": _number(rate),
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA,
        "video_path": VIDEO if job.options.video != "none" else None,
        "features": features,
    }


def _number(rate: float) -> int | float:
    return int(rate) if rate == int(rate) else rate
