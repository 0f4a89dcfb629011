"""Writes LeRobot data sets with pyarrow, PyAV and json from the format's description, independently of the code under test."""

import io
import json
from fractions import Fraction

import av
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

LENGTHS = (6, 4, 5)
FPS = 10
SIZE = 64
VIDEO, IMAGE = "observation.images.top", "observation.images.wrist"


def level(episode, step):
    return 40 + episode * 60 + step * 8


def frame(episode, step):
    pixels = np.full((SIZE, SIZE, 3), level(episode, step), np.uint8)
    # The left quarter is dark.
    pixels[:, : SIZE // 4] = 10
    return pixels


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def video(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS), options={"g": "2", "crf": "10"})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def action(episode, length):
    return np.stack([np.arange(length) / 10, np.full(length, episode)], 1).astype(np.float32)


def features(**more):
    plain = {
        name: {"dtype": "int64", "shape": [1], "names": None} for name in ("frame_index", "episode_index", "index", "task_index")
    }
    image = {"shape": [SIZE, SIZE, 3], "names": ["height", "width", "channels"]}
    return {
        "action": {"dtype": "float32", "shape": [2], "names": ["x", "gripper"]},
        "observation.state": {"dtype": "float32", "shape": [2], "names": {"motors": ["a", "b"]}},
        VIDEO: {"dtype": "video", **image, "info": {"video.fps": FPS, "video.codec": "h264", "video.is_depth_map": False}},
        IMAGE: {"dtype": "image", "shape": [3, SIZE, SIZE], "names": ["channels", "height", "width"]},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **plain,
        **more,
    }


def table(episode, length, first):
    vector = pa.list_(pa.float32(), 2)
    return pa.table(
        {
            "action": pa.array(list(action(episode, length)), vector),
            "observation.state": pa.array(list(action(episode, length) + 1), pa.list_(pa.float32())),
            IMAGE: pa.array([{"bytes": png(255 - frame(episode, t)), "path": None} for t in range(length)]),
            "timestamp": pa.array(np.arange(length, dtype=np.float32) / FPS),
            "frame_index": pa.array(np.arange(length)),
            "episode_index": pa.array(np.full(length, episode)),
            "index": pa.array(np.arange(first, first + length)),
            "task_index": pa.array(np.full(length, episode % 2)),
        }
    )


def info(version, **paths):
    counts = {"codebase_version": version, "robot_type": "so100", "total_episodes": len(LENGTHS), "total_frames": sum(LENGTHS)}
    return {
        **counts,
        "total_tasks": 2,
        "chunks_size": 1000,
        "fps": FPS,
        "splits": {"train": "0:2", "val": "2:3"},
        "features": features(),
        **paths,
    }


def lines(path, entries):
    path.write_text("".join(json.dumps(e) + "\n" for e in entries))


def write_v2(folder, version="v2.1"):
    """One data file and one video per episode."""
    (folder / "meta").mkdir(parents=True)
    (folder / "data/chunk-000").mkdir(parents=True)
    for episode, length in enumerate(LENGTHS):
        pq.write_table(table(episode, length, sum(LENGTHS[:episode])), folder / f"data/chunk-000/episode_{episode:06d}.parquet")
        video(folder / f"videos/chunk-000/{VIDEO}/episode_{episode:06d}.mp4", [frame(episode, t) for t in range(length)])
    data = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    videos = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    (folder / "meta/info.json").write_text(json.dumps(info(version, data_path=data, video_path=videos, total_chunks=1)))
    lines(folder / "meta/tasks.jsonl", [{"task_index": 0, "task": "pick it"}, {"task_index": 1, "task": "place it"}])
    entries = [{"episode_index": e, "tasks": [("pick it", "place it")[e % 2]], "length": n} for e, n in enumerate(LENGTHS)]
    lines(folder / "meta/episodes.jsonl", entries)
    return folder


def write_v3(folder):
    """All episodes in one data file and one video."""
    for name in ("meta/episodes/chunk-000", "data/chunk-000"):
        (folder / name).mkdir(parents=True)
    starts = [sum(LENGTHS[:e]) for e in range(len(LENGTHS))]
    tables = [table(e, n, starts[e]) for e, n in enumerate(LENGTHS)]
    pq.write_table(pa.concat_tables(tables), folder / "data/chunk-000/file-000.parquet", row_group_size=4)
    frames = [frame(e, t) for e, n in enumerate(LENGTHS) for t in range(n)]
    video(folder / f"videos/{VIDEO}/chunk-000/file-000.mp4", frames)
    entries = [
        {
            "episode_index": e,
            "tasks": [("pick it", "place it")[e % 2]],
            "length": n,
            "data/chunk_index": 0,
            "data/file_index": 0,
            "dataset_from_index": starts[e],
            "dataset_to_index": starts[e] + n,
            f"videos/{VIDEO}/chunk_index": 0,
            f"videos/{VIDEO}/file_index": 0,
            f"videos/{VIDEO}/from_timestamp": starts[e] / FPS,
            f"videos/{VIDEO}/to_timestamp": (starts[e] + n) / FPS,
            "stats/action/mean": [0.0, 0.0],
        }
        for e, n in enumerate(LENGTHS)
    ]
    pq.write_table(pa.Table.from_pylist(entries), folder / "meta/episodes/chunk-000/file-000.parquet")
    pq.write_table(pa.table({"task_index": [0, 1], "__index_level_0__": ["pick it", "place it"]}), folder / "meta/tasks.parquet")
    data = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    videos = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    (folder / "meta/info.json").write_text(json.dumps(info("v3.0", data_path=data, video_path=videos)))
    return folder


WRITERS = {"v2.0": lambda f: write_v2(f, "v2.0"), "v2.1": write_v2, "v3.0": write_v3}


def edit(folder, change):
    """Passes every data file's table through `change(table, episode)`, an episode at a time."""
    for path in sorted((folder / "data").rglob("*.parquet")):
        rows = pq.read_table(path)
        parts = [rows.filter(pc.equal(rows["episode_index"], e)) for e in range(len(LENGTHS))]
        pq.write_table(pa.concat_tables([change(t, e) for e, t in enumerate(parts) if t.num_rows]), path, row_group_size=4)


def describe(folder, **changes):
    """Changes entries of meta/info.json."""
    path = folder / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
