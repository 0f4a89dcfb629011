"""Measures other formats: parsing RLDS, converting it on two cores, frames from shards against frames from MP4, memory.

RLDS data are generated: 256 x 256 JPEGs of about 20 kB, 50 steps per episode. Speeds are medians of alternating rounds.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from vla.datasets.formats.convert import run
from vla.datasets.formats.job import ConvertOptions, make_job
from vla.datasets.formats.readers.rlds import RLDSReader
from vla.datasets.formats.readers.tfrecord import masked_crc
from vla.datasets.formats.video import Decoder, VideoFrames, write_video
from vla.datasets.index import ShardIndex
from vla.datasets.shards import ShardWriter, decode_jpeg
from vla.report.provenance import provenance

SIZE, LENGTH, FPS = 256, 50, 10
FEW, MANY = 500, 10_000


def pixels(rng: np.random.Generator, size: int) -> np.ndarray:
    """Returns an image with the detail of a photograph: smooth shapes with some noise."""
    y, x = np.mgrid[0:size, 0:size] / size
    waves = [np.sin(x * a + y * b + c) for a, b, c in rng.uniform(-12, 12, (6, 3))]
    image = np.stack([sum(waves[i::3], np.zeros_like(x)) for i in range(3)], -1)
    return np.clip(128 + 50 * image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=91)
    return file.getvalue()


def field(number: int, payload: bytes) -> bytes:
    size, prefix = len(payload), bytes([number << 3 | 2])
    while size >= 0x80:
        prefix += bytes([size & 0x7F | 0x80])
        size >>= 7
    return prefix + bytes([size]) + payload


def example(values: dict[str, list[bytes] | np.ndarray]) -> bytes:
    """A tf.train.Example."""
    entries = []
    for name, value in values.items():
        if isinstance(value, list):
            feature = field(1, b"".join(field(1, v) for v in value))
        elif value.dtype.kind == "f":
            feature = field(2, field(1, value.astype("<f4").tobytes()))
        else:
            feature = field(3, field(1, value.astype(np.uint8).tobytes()))
        entries.append(field(1, field(1, name.encode()) + field(2, feature)))
    return field(1, b"".join(entries))


def write_rlds(folder: Path, episodes: int, length: int, size: int, files: int) -> Path:
    """A data set as TFDS lays it out."""
    rng = np.random.default_rng(0)
    images = [jpeg(pixels(rng, size)) for _ in range(50)]
    folder.mkdir(parents=True)
    shares = np.array_split(np.arange(episodes), files)
    for number, share in enumerate(shares):
        with (folder / f"bench-train.tfrecord-{number:05d}-of-{files:05d}").open("wb") as file:
            for episode in share:
                payload = example(
                    {
                        "steps/observation/image": [images[(episode + t) % 50] for t in range(length)],
                        "steps/observation/state": rng.normal(size=(length, 8)).astype(np.float32),
                        "steps/action": rng.normal(size=(length, 7)).astype(np.float32),
                        "steps/language_instruction": [f"lift object {episode % 9}".encode()] * length,
                        "steps/is_first": np.arange(length) == 0,
                        "steps/is_last": np.arange(length) == length - 1,
                        "steps/reward": np.zeros(length, np.float32),
                    }
                )
                head = struct.pack("<Q", len(payload))
                file.write(head + struct.pack("<I", masked_crc(head)) + payload + struct.pack("<I", masked_crc(payload)))

    def tensor(dtype: str, *shape: int) -> dict:
        return {"pythonClassName": "Tensor", "tensor": {"shape": {"dimensions": [str(n) for n in shape]}, "dtype": dtype}}

    picture = {"shape": {"dimensions": [str(size), str(size), "3"]}, "dtype": "uint8", "encodingFormat": "jpeg"}
    observation = {"image": {"pythonClassName": "Image", "image": picture}, "state": tensor("float32", 8)}
    steps = {
        "observation": {"featuresDict": {"features": observation}},
        "action": tensor("float32", 7),
        "language_instruction": {"pythonClassName": "Text", "text": {}},
        **{name: tensor("bool") for name in ("is_first", "is_last")},
        "reward": tensor("float32"),
    }
    whole = {"sequence": {"feature": {"featuresDict": {"features": steps}}, "length": "-1"}}
    (folder / "features.json").write_text(json.dumps({"featuresDict": {"features": {"steps": whole}}}))
    entry = {"name": "train", "shardLengths": [str(len(share)) for share in shares]}
    (folder / "dataset_info.json").write_text(json.dumps({"name": "bench", "version": "1.0.0", "splits": [entry]}))
    return folder


def parse(folder: Path) -> float:
    """Returns the steps per second of reading, checking and shaping every record, with images left encoded."""
    reader = RLDSReader(folder)
    began, steps = time.perf_counter(), 0
    for ref in reader.refs():
        raw = reader.read(ref)
        # A value is shaped and checked when it is used.
        steps += len([raw[name] for name in raw][0])
    return steps / (time.perf_counter() - began)


def convert(source: Path, out: Path, workers: int) -> None:
    """Converts, and prints the steps per second; runs in a separate process."""
    began = time.perf_counter()
    report = run(make_job(ConvertOptions(str(source), str(out))), workers)
    print(json.dumps({"rate": report["steps"] / (time.perf_counter() - began)}))


def converted(*jobs: tuple[Path, Path, int], peak: list[float] | None = None) -> float:
    """Returns the summed rates of parallel conversions; appends the peak of their total memory (MiB) to `peak`."""
    command = [sys.executable, __file__, "--convert"]
    running = [subprocess.Popen([*command, str(s), str(o), str(n)], stdout=subprocess.PIPE, text=True) for s, o, n in jobs]
    done, most = threading.Event(), [0.0]

    def watch() -> None:
        while not done.wait(0.2):
            total = 0
            for process in running:
                try:
                    for each in (family := psutil.Process(process.pid)), *family.children(recursive=True):
                        total += each.memory_full_info().pss
                except psutil.Error:
                    continue
            most[0] = max(most[0], total / 2**20)

    if peak is not None:
        threading.Thread(target=watch, daemon=True).start()
    rates = [json.loads(process.communicate()[0])["rate"] for process in running]
    done.set()
    if peak is not None:
        peak.append(most[0])
    for _, out, _ in jobs:
        shutil.rmtree(out)
    return sum(rates)


def frames(root: Path, count: int) -> dict[str, float]:
    """Returns random frames per second of one film, from shards and from an MP4 as LeRobot encodes it, by seeking with PyAV.

    The MP4 is opened for each frame, as LeRobot does it, or stays open.
    """
    rng = np.random.default_rng(2)
    length, scene = 200, pixels(rng, SIZE + 100).astype(np.int16)
    film = [scene[t // 2 : t // 2 + SIZE, t // 2 : t // 2 + SIZE] + rng.normal(0, 4, (SIZE, SIZE, 3)) for t in range(length)]
    film = [np.clip(frame, 0, 255).astype(np.uint8) for frame in film]
    with ShardWriter(root / "film") as writer:
        for i, frame in enumerate(film):
            writer.write(f"f{i:06d}", {"image.jpg": jpeg(frame)})
    write_video(root / "film.mp4", film, FPS, "av1")
    index, kept = ShardIndex(root / "film"), Decoder(root / "film.mp4", "film.mp4")
    wanted = VideoFrames(root / "film.mp4", 0, np.arange(length) / FPS, "film.mp4")
    # A training process has it: timm and transformers load it.
    import torchvision.io  # noqa: F401

    def opened(i: int) -> None:
        list(wanted.rows([i]))

    sides = {
        "shards": lambda i: decode_jpeg(index.read(i, ("image.jpg",))["image.jpg"], ""),
        "MP4 opened": opened,
        "MP4 kept open": lambda i: next(kept.frames(wanted, [i])),
    }
    results: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(3):
        for name, draw in sides.items():
            began = time.perf_counter()
            for i in rng.integers(0, length, count).tolist():
                draw(i)
            results[name].append(count / (time.perf_counter() - began))
    return {name: statistics.median(rates) for name, rates in results.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", type=int, default=MANY, help="episodes of the large data set of which memory is watched")
    parser.add_argument("--convert", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.convert:
        source, out, workers = options.convert
        convert(Path(source), Path(out), int(workers))
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    root = Path(tempfile.mkdtemp())
    try:
        whole = write_rlds(root / "whole", options.episodes, LENGTH, SIZE, 8)
        halves = [write_rlds(root / f"half-{k}", options.episodes // 2, LENGTH, SIZE, 4) for k in range(2)]
        parsed = statistics.median(parse(whole) for _ in range(options.rounds + 1))
        together, apart = [], []
        for _ in range(options.rounds):
            together.append(converted((whole, root / "out", 2)))
            apart.append(converted(*((half, root / f"out-{half.name}", 1) for half in halves)))
        drawn = frames(root, 400)
        few = write_rlds(root / "few", FEW, 20, 64, 4)
        many = write_rlds(root / "many", options.many, 20, 64, 16)
        peaks: list[float] = []
        for source in (few, many):
            converted((source, root / f"out-{source.name}", 2), peak=peaks)
    finally:
        shutil.rmtree(root)
    rate, independent = statistics.median(together), statistics.median(apart)
    values = {
        "RLDS parsed, without decoding (steps/s on one core)": (parsed, ">=", 50_000),
        "RLDS to shards, JPEGs passed on (steps/s on two cores)": (rate, ">=", 5000),
        "random frames, shards / MP4 by seeking": (drawn["shards"] / drawn["MP4 opened"], ">=", 5.0),
        "conversion by two workers / two independent processes": (rate / independent, ">=", 0.85),
        f"memory of {options.many} episodes over that of {FEW} (MiB)": (peaks[1] - peaks[0], "<=", 200.0),
    }
    bars = {
        name: {"value": round(value, 3), "bar": f"{sign} {bar:g}", "holds": value >= bar if sign == ">=" else value <= bar}
        for name, (value, sign, bar) in values.items()
    }
    measured = {
        "two independent processes (steps/s)": round(independent, 1),
        "random frames/s": {name: round(value, 1) for name, value in drawn.items()},
        "random frames, shards / MP4 kept open": round(drawn["shards"] / drawn["MP4 kept open"], 3),
        "peak memory (MiB)": [round(p, 1) for p in peaks],
        "jpeg_bytes": len(jpeg(pixels(np.random.default_rng(0), SIZE))),
    }
    print(json.dumps({"bars": bars, "measured": measured, **provenance(), "command": " ".join(sys.argv)}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
