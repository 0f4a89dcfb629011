"""Measures reading of data: random access against webdataset's sequential reader and bare decoding; start-up, resume and memory.

All sides read the same shards (256 x 256 JPEG, an action, JSON), decode with one function in one thread and give uint8 arrays.
"""

import argparse
import io
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from vla.contract import Camera, Embodiment
from vla.datasets.card import DatasetCard
from vla.datasets.index import ShardIndex, _stamp
from vla.datasets.mixture import Mixture
from vla.datasets.robot import RobotSource
from vla.datasets.shards import ShardWriter, decode_array, decode_jpeg, decode_json
from vla.report.provenance import provenance
from vla.space import Space
from vla.training.data import Cursor

SIZE, SHARDS, MILLION = 256, 200, 1_000_000
SPEC = Embodiment((Camera("front", SIZE, SIZE),), Space(("x",), ("m",), (-1.0,), (1.0,)), Space(("dx",), ("m",), (-1.0,), (1.0,)))


def jpeg(rng: np.random.Generator) -> bytes:
    """Returns a JPEG of about 20 kB with the detail of a photograph: smooth shapes with some noise, subsampled chroma."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    waves = [np.sin(x * a + y * b + c) for a, b, c in rng.uniform(-12, 12, (6, 3))]
    image = np.stack([sum(waves[i::3], np.zeros_like(x)) for i in range(3)], -1)
    pixels = np.clip(128 + 50 * image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=91)
    return file.getvalue()


def write(folder: Path, samples: int, per_shard: int, state: bool = True) -> None:
    rng = np.random.default_rng(0)
    images = [jpeg(rng) for _ in range(50)]
    length = 50
    with ShardWriter(folder, per_shard) as writer:
        for i in range(samples):
            info = {
                "episode": i // length,
                "step": i % length,
                "length": min(length, samples - i // length * length),
                "instruction": f"lift object {i // length % 9}",
                "terminate": 0,
                "embodiment": "arm",
                "target": "object",
            }
            vector = rng.uniform(-1, 1, 1).astype(np.float32)
            members = {"front.jpg": images[i % len(images)], "action.npy": vector, "json": info}
            writer.write(f"s{i:08d}", members | ({"state.npy": vector} if state else {}))
    DatasetCard("benchmark", "robot", "arm", SPEC).save(folder)


def rate(read, samples: int) -> float:
    began = time.perf_counter()
    count = sum(1 for _ in itertools.islice(read(), samples))
    assert count == samples
    return samples / (time.perf_counter() - began)


def speeds(folder: Path, samples: int, rounds: int) -> dict[str, float]:
    """Returns samples per second of bare decoding, ours (random order) and webdataset (in order); medians of several rounds."""
    import webdataset as wds

    index = ShardIndex(folder)
    jpegs = [index.read(i, ("front.jpg",))["front.jpg"] for i in range(samples)]
    urls = [str(p) for p in sorted(folder.glob("shard-*.tar"))]
    order = np.random.default_rng(1).permutation(len(index)).tolist()

    def bare():
        for data in jpegs:
            yield decode_jpeg(data, "")

    def ours():
        for i in order:
            members = index.read(i)
            yield (
                decode_jpeg(members["front.jpg"], ""),
                decode_array(members["action.npy"], ""),
                decode_json(members["json"], ""),
            )

    def decode_image(key: str, data: bytes):
        return decode_jpeg(data, key) if key.endswith("jpg") else None

    def sequential():
        # webdataset's own decoders except for the image, which all sides decode alike.
        yield from wds.WebDataset(urls, shardshuffle=False).decode(decode_image)

    sides = {"bare": bare, "ours": ours, "webdataset": sequential}
    results: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, read in sides.items():
            results[name].append(rate(read, samples))
    return {name: statistics.median(values) for name, values in results.items()}


def start_up(folder: Path) -> float:
    """Returns the seconds to open a data set of 200 indexed shards and to read a sample."""
    RobotSource(folder, chunk=4).sample(0, np.random.default_rng(0))
    began = time.perf_counter()
    RobotSource(folder, chunk=4).sample(7, np.random.default_rng(0))
    return time.perf_counter() - began


def synthetic(folder: Path) -> None:
    """Writes the index of a million samples over 200 empty shards."""
    folder.mkdir()
    each = MILLION // SHARDS
    for shard in range(SHARDS):
        path = folder / f"shard-{shard:06d}.tar"
        with path.open("wb") as file:
            file.truncate(each * 4096)
        first = np.arange(each + 1) * 4
        columns = {
            "keys": np.array([f"s{shard * each + i:08d}".encode() for i in range(each)], np.bytes_),
            "first": first,
            "extensions": np.array(["action.npy", "front.jpg", "json", "state.npy"]),
            "extension": np.tile(np.arange(4, dtype=np.int16), each),
            "offset": np.arange(each * 4) * 1024,
            "size": np.full(each * 4, 900),
        }
        with path.with_suffix(".idx").open("wb") as file:
            np.savez(file, stamp=np.array(_stamp(path)), **columns)
    DatasetCard("synthetic", "robot", "arm", SPEC).save(folder)
    rows = np.arange(MILLION)
    steps = {
        "record": rows,
        "episode": rows // 50,
        "step": rows % 50,
        "start": rows // 50 * 50,
        "end": rows // 50 * 50 + 50,
        "action": np.zeros((MILLION, 1), np.float32),
        "state": np.zeros((MILLION, 1), np.float32),
        "terminate": np.zeros(MILLION, bool),
        "point": np.full((MILLION, 2), np.nan, np.float32),
        "reach": np.full((MILLION, 4), -1, np.int16),
        **{name: np.zeros(MILLION, np.int32) for name in ("instruction", "target", "embodiment")},
        "words": np.array(["lift it"]),
        "unreadable": np.zeros(0, np.int64),
        "why": np.zeros(0, np.str_),
    }
    ShardIndex(folder).columns("steps", lambda: steps)


def resume(folder: Path) -> float:
    """Returns the seconds until the first batch at 90 % of an epoch of a million samples is drawn."""
    began = time.perf_counter()
    source = RobotSource(folder, chunk=4)
    mixture = Mixture({"robot": source}, 0, len(source))
    batch = next(iter(Cursor(64, len(source) // 64, int(0.9 * len(source)) // 64 * 64)))
    drawn = [mixture.draw(t) for t in batch]
    assert len(drawn) == 64
    return time.perf_counter() - began


def growth(folder: Path, samples: int) -> float:
    """Returns the MiB by which the process grows over `samples` samples drawn from a mixture."""
    source = RobotSource(folder, chunk=4)
    mixture = Mixture({"robot": source}, 0)
    process = psutil.Process()
    for t in range(2000):
        mixture.sample(t)
    before = process.memory_info().rss
    for t in range(2000, 2000 + samples):
        mixture.sample(t)
    return (process.memory_info().rss - before) / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--drawn", type=int, default=100_000, help="samples over which memory is watched")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    root = Path(tempfile.mkdtemp())
    try:
        write(root / "real", options.samples, max(options.samples // SHARDS, 1))
        synthetic(root / "million")
        # The speeds use image, action and JSON only; a robot source also needs a state.
        write(root / "plain", options.samples, max(options.samples // SHARDS, 1), state=False)
        results = speeds(root / "plain", options.samples, options.rounds)
        values = {
            "random access / webdataset": (results["ours"] / results["webdataset"], ">=", 1.5),
            "random access / bare decoding": (results["ours"] / results["bare"], ">=", 0.8),
            "start-up on 200 shards (s)": (start_up(root / "real"), "<=", 1.0),
            "resume at 90 % of a million samples (s)": (resume(root / "million"), "<=", 2.0),
            "growth over 100,000 samples (MiB)": (growth(root / "real", options.drawn), "<=", 100.0),
        }
    finally:
        shutil.rmtree(root)
    bars = {
        name: {"value": round(value, 3), "bar": f"{sign} {bar:g}", "holds": value >= bar if sign == ">=" else value <= bar}
        for name, (value, sign, bar) in values.items()
    }
    rates = {f"{name} (samples/s)": round(value, 1) for name, value in results.items()}
    print(
        json.dumps(
            {
                "bars": bars,
                "measured": rates,
                "jpeg_bytes": len(jpeg(np.random.default_rng(0))),
                "drawn": options.drawn,
                **provenance(),
                "command": " ".join(["benchmarks/data.py", *sys.argv[1:]]),
            },
            indent=1,
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
