"""Each step gets the frame of its timestamp, or none."""

import dataclasses
import json
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
av = pytest.importorskip("av")
import pyarrow.parquet as pq  # noqa: E402
from lerobot_files import lines  # noqa: E402

from vla.cli import main  # noqa: E402
from vla.datasets.formats.convert import run  # noqa: E402
from vla.datasets.formats.inspection.check import verify  # noqa: E402
from vla.datasets.formats.job import ConvertOptions, make_job  # noqa: E402
from vla.datasets.formats.lerobot_source import LeRobotSource  # noqa: E402
from vla.datasets.formats.readers.lerobot import LeRobotReader  # noqa: E402
from vla.datasets.formats.video import Decoder, write_video  # noqa: E402
from vla.datasets.robot import RobotSource  # noqa: E402
from vla.errors import UserError  # noqa: E402

KEY = "observation.images.top"
NTSC = Fraction(30_000, 1001)
BITS = 12


def image(number):
    """Returns a frame that shows a number in bits."""
    bits = ((number >> np.arange(BITS)) & 1).reshape(3, 4)
    pixels = np.repeat(np.repeat(bits * 200 + 25, 16, 1), 16, 0).astype(np.uint8)
    return np.stack([np.pad(pixels, ((0, 16), (0, 0)))] * 3, 2)


def number(pixels):
    """Returns the number that a frame shows."""
    assert pixels.shape == (64, 64, 3)
    blocks = pixels[:48].mean(2).reshape(3, 16, 4, 16).mean((1, 3)).ravel()
    return int(((blocks > 128) << np.arange(BITS)).sum())


@dataclasses.dataclass
class Made:
    """A data set whose table and videos are made as asked. A frame shows its number among all frames.

    Attributes:
        lengths: frames of the episodes.
        fps: what info.json says.
        rate: frames per second of the videos.
        stamps: (episode, steps) -> timestamps; None: there is no such column.
        shown: steps [T] of the table -> their frames in the video of the episode.
        codec, options: of the videos; `container`: options of their files.
        tick, pts: unit of the frames' times, and frame -> time in it, if they are not regular.
        start: (episode, its first frame) -> from_timestamp of v3.
    """

    lengths: tuple[int, ...] = (7, 4, 5)
    fps: float = 30
    rate: Fraction = Fraction(30)
    stamps: Callable | None = lambda episode, steps: steps / 30
    shown: Callable = lambda steps: steps
    codec: str = "libx264"
    options: dict = dataclasses.field(default_factory=lambda: {"g": "2", "crf": "10"})
    container: dict = dataclasses.field(default_factory=dict)
    tick: Fraction | None = None
    pts: Callable | None = None
    start: Callable | None = None
    steps: tuple[int, ...] = ()

    @property
    def counts(self):
        """Steps of each episode."""
        return self.steps or self.lengths

    def video(self, path, frames):
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.codec == "av1":
            # Its encoder takes priority for itself if it is not held back.
            write_video(path, map(image, frames), float(self.rate), "av1")
            return
        with av.open(str(path), "w", options=self.container) as container:
            stream = container.add_stream(self.codec, rate=self.rate, options=self.options)
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            if self.tick:
                stream.time_base = stream.codec_context.time_base = self.tick
            for k, number in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(image(number), format="rgb24")
                if self.pts:
                    frame.pts, frame.time_base = self.pts(k), self.tick
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))

    def write(self, folder, version):
        (folder / "meta").mkdir(parents=True)
        firsts = np.cumsum([0, *self.lengths]).tolist()
        tables, entries = [], []
        start = self.start or (lambda episode, first: float(first / self.rate))
        for e, (length, count) in enumerate(zip(self.lengths, self.counts, strict=True)):
            steps = np.arange(count)
            columns = {"action": pa.array(list(np.stack([steps, steps], 1).astype(np.float32))), "frame_index": steps}
            if self.stamps:
                columns["timestamp"] = self.stamps(e, steps)
            tables.append(pa.table({**columns, "episode_index": np.full(count, e), "task_index": np.zeros(count, int)}))
            entry = {"episode_index": e, "tasks": ["go"], "length": count}
            if version == "v3.0":
                entry |= {"data/chunk_index": 0, "data/file_index": 0, "dataset_from_index": 0, "dataset_to_index": 0}
                entry |= {f"videos/{KEY}/chunk_index": 0, f"videos/{KEY}/file_index": 0}
                entry[f"videos/{KEY}/from_timestamp"] = start(e, firsts[e])
                entry[f"videos/{KEY}/to_timestamp"] = start(e, firsts[e]) + float(length / self.rate)
            entries.append(entry)
        info = {"codebase_version": version, "fps": self.fps, "total_episodes": len(self.lengths), "robot_type": "arm"}
        vector = {"dtype": "float32", "shape": [2], "names": ["x", "y"]}
        video = {"dtype": "video", "shape": [64, 64, 3], "names": ["height", "width", "channels"]}
        info["features"] = {"action": vector, KEY: video}
        if version == "v3.0":
            (folder / "data").mkdir()
            (folder / "meta/episodes/a").mkdir(parents=True)
            pq.write_table(pa.concat_tables(tables), folder / "data/0.parquet")
            pq.write_table(pa.Table.from_pylist(entries), folder / "meta/episodes/a/0.parquet")
            pq.write_table(pa.table({"task_index": [0], "task": ["go"]}), folder / "meta/tasks.parquet")
            self.video(folder / "videos/0.mp4", range(firsts[-1]))
            info |= {"data_path": "data/{file_index}.parquet", "video_path": "videos/{file_index}.mp4"}
        else:
            (folder / "data").mkdir()
            for e, table in enumerate(tables):
                pq.write_table(table, folder / f"data/{e}.parquet")
                self.video(folder / f"videos/{e}.mp4", range(firsts[e], firsts[e + 1]))
            lines(folder / "meta/episodes.jsonl", entries)
            lines(folder / "meta/tasks.jsonl", [{"task_index": 0, "task": "go"}])
            info |= {"data_path": "data/{episode_index}.parquet", "video_path": "videos/{episode_index}.mp4"}
        (folder / "meta/info.json").write_text(json.dumps(info))
        return folder

    def expected(self):
        """The number of each step's frame, by episode."""
        firsts = np.cumsum([0, *self.lengths])
        return [(first + self.shown(np.arange(n))).tolist() for first, n in zip(firsts, self.counts, strict=False)]


def read_everywhere(made, folder, version):
    """Checks each step's frame in the reader, one by one in any order, in a conversion and in the direct source."""
    made.write(folder, version)
    reader, expected = LeRobotReader(folder), made.expected()
    assert verify(reader, reader.card()).problems == []
    for ref, numbers in zip(reader.refs(), expected, strict=True):
        video = reader.read(ref)[KEY]
        assert [number(p) for p in video.rows(range(len(video)))] == numbers
        assert [number(p) for p in video.rows(range(0, len(video), 3))] == numbers[::3]
        with Decoder(video.path, "x") as decoder:
            order = np.random.default_rng(0).permutation(len(video))[:60].tolist()
            assert [number(next(decoder.frames(video, [i]))) for i in (*order, 0)] == [numbers[i] for i in (*order, 0)]
    run(make_job(ConvertOptions(str(folder), str(folder.parent / "out"), quality=100), reader))
    shards, direct = RobotSource(folder.parent / "out", chunk=1), LeRobotSource(folder, chunk=1)
    flat = [n for numbers in expected for n in numbers]
    for i in (*range(min(len(flat), 20)), len(flat) - 1):
        for source in (shards, direct):
            assert number(source.sample(i, np.random.default_rng(0)).images["top"]) == flat[i]


B_FRAMES = {"g": "12", "bf": "3", "crf": "10"}
RIGHT = {
    "plain": Made(),
    "one step": Made(lengths=(1, 2, 1)),
    "one key frame": Made(lengths=(40,), options={"g": "300", "crf": "10"}),
    "29.97": Made(fps=29.97, rate=NTSC, stamps=lambda e, t: (t / 29.97).astype(np.float32)),
    "29.97 as 2997/100": Made(fps=29.97, rate=Fraction(2997, 100), stamps=lambda e, t: t / 29.97),
    "29.97 called 30": Made(rate=NTSC),
    "29.97 called 30, timestamps say it": Made(rate=NTSC, stamps=lambda e, t: t * 1001 / 30_000),
    "29.97 called 30, for long": Made(lengths=(30, 640), rate=NTSC),
    "23.98": Made(fps=23.98, rate=Fraction(24_000, 1001), stamps=None),
    "59.94 of which every second": Made(
        (20, 31), rate=Fraction(60_000, 1001), steps=(10, 15), shown=lambda t: 2 * t, stamps=lambda e, t: t / 30
    ),
    "60 of which every second": Made((20, 31), rate=Fraction(60), steps=(10, 15), shown=lambda t: 2 * t),
    "B-frames": Made((25, 13), options=B_FRAMES),
    "open GOP": Made((60, 31), options={"crf": "10", "x264-params": "open-gop=1:keyint=10:bframes=3"}),
    "HEVC": Made((25, 13), codec="libx265", options={"x265-params": "log-level=none:keyint=8:qp=12"}),
    "HEVC, open GOP": Made((60, 31), codec="libx265", options={"x265-params": "log-level=none:keyint=10:open-gop=1:qp=12"}),
    "AV1": Made(codec="av1"),
    "milliseconds": Made(
        (40, 13), tick=Fraction(1, 1000), pts=lambda k: round(k * 1000 / 30), container={"video_track_timescale": "1000"}
    ),
    "coarse times": Made(container={"video_track_timescale": "30"}),
    "float32": Made(stamps=lambda e, t: (t / 30).astype(np.float32)),
    "timestamps rounded to milliseconds": Made(stamps=lambda e, t: (t / 30).round(3).astype(np.float32)),
    "no timestamps": Made(stamps=None),
    "empty timestamps": Made(stamps=lambda e, t: pa.nulls(len(t))),
    "timestamps in words": Made(stamps=lambda e, t: [str(x) for x in t]),
    "dates": Made(stamps=lambda e, t: np.datetime64("2024-01-01", "ms") + t * 33),
    "timestamps since 1970": Made(stamps=lambda e, t: 1.7e9 + e * 100 + t / 30),
    "timestamps of the whole set": Made(stamps=lambda e, t: ((0, 7, 11)[e] + t) / 30),
    "the beginning was cut off": Made((20, 18), steps=(10, 9), shown=lambda t: t + 6, stamps=lambda e, t: (t + 6) / 30),
    "steps were cut out": Made((20, 18), steps=(10, 9), shown=lambda t: t + t // 4, stamps=lambda e, t: (t + t // 4) / 30),
    "irregular, and the table says it": Made(
        tick=Fraction(1, 90_000), pts=lambda k: 3000 * k + 700 * (k % 3), stamps=lambda e, t: (3000 * t + 700 * (t % 3)) / 90_000
    ),
    "12.5": Made(fps=12.5, rate=Fraction(25, 2), stamps=lambda e, t: t / 12.5),
    "29.97 called 30, also in its beginnings": Made((20, 9, 5), rate=NTSC, start=lambda e, first: first / 30),
    "10/3 called 3.3333": Made((60, 40), 3.3333, Fraction(10, 3), lambda e, t: t / 3.3333, start=lambda e, first: first / 3.3333),
    "10/3": Made(fps=3.3333, rate=Fraction(10, 3), stamps=None),
}
CASES = [(case, "v2.1") for case in RIGHT]
# The others have times that begin anew with each episode.
CASES += [(case, "v3.0") for case in RIGHT if case not in ("irregular, and the table says it", "milliseconds")]


@pytest.mark.parametrize(("case", "version"), CASES)
def test_every_step_gets_its_frame(tmp_path, case, version):
    read_everywhere(RIGHT[case], tmp_path / "set", version)


WRONG = {
    "info.json and timestamps": (Made((40, 7, 2), fps=29, stamps=lambda e, t: t / 29), 29, 30),
    "info.json alone": (Made((40, 7, 2), fps=29, stamps=None), 29, 30),
    "timestamps alone": (Made((40, 7, 2), stamps=lambda e, t: t / 29), 29, 30),
    "the video": (Made((40, 7, 2), rate=Fraction(29)), 30, 29),
    "one second of the table is a frame more": (Made((31, 31), fps=24, rate=Fraction(25), stamps=lambda e, t: t / 24), 24, 25),
    "two for three": (Made((30, 30), fps=20, stamps=None, steps=(20, 20)), 20, 30),
}


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("case", WRONG)
def test_other_rates_are_refused_by_name(tmp_path, case, version, capsys):
    made, table, video = WRONG[case]
    folder = made.write(tmp_path / "set", version)
    reader = LeRobotReader(folder)
    message = f"the video has {video} frames per second, its table {table}"
    findings = verify(reader, reader.card())
    assert findings.damaged == len(made.lengths) and all(message in problem for problem in findings.problems)
    for skip in (False, True):
        with pytest.raises(UserError, match=message):
            make_job(ConvertOptions(str(folder), str(tmp_path / "out"), skip=skip), reader)
    with pytest.raises(UserError, match=message):
        _ = LeRobotSource(folder, chunk=1).card
    assert main(["data", "verify", str(folder), "--workers", "1"]) == 1 and message in capsys.readouterr().out
    assert main(["data", "convert", str(folder), str(tmp_path / "b"), "--rate", "1", "--workers", "1"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_frame_next_to_the_time_is_not_taken(tmp_path, version):
    """The video lacks a frame, so the frames after it are late."""
    made = Made((20,), tick=Fraction(1, 90_000), pts=lambda k: 3000 * (k + (k > 9)))
    reader = LeRobotReader(made.write(tmp_path / "set", version))
    findings = verify(reader, reader.card())
    assert findings.damaged == 1 and "frames per second, its table 30" in findings.problems[0]


def test_jitter_is_no_rate(tmp_path):
    made = Made((20,), stamps=lambda e, t: t / 30 + 0.004 * (t % 2))
    reader = LeRobotReader(made.write(tmp_path / "set", "v2.1"))
    assert "frame 1 of 20 is missing" in verify(reader, reader.card()).problems[0]


def test_timestamps_that_fall_are_refused(tmp_path):
    made = Made(stamps=lambda e, t: np.where(t == 3, 0, t / 30) if e == 1 else t / 30)
    reader = LeRobotReader(made.write(tmp_path / "set", "v2.1"))
    findings = verify(reader, reader.card())
    assert findings.damaged == 1 and "episode 1: the timestamp of step 3 is before" in findings.problems[0]
