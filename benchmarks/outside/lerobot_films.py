"""LeRobot's videos: codecs, rates, timestamps, and frames that are missing or too many."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pyarrow as pa

from outside import written
from outside.lerobot_folder import FILM, episodes_table, frames, write
from outside.pixels import level, plain
from outside.trial import Trial, case

LENGTHS = (6, 5)
LEVELS = [level(e, t) for e, n in enumerate(LENGTHS) for t in range(n)]


def right_images(trial: Trial, source: str = "in", within: float = 4, **encoding) -> None:
    """Converts and checks that every step has its own frame."""
    trial.vla("data", "convert", source, f"out-{source}", "--workers=1")
    trial.near("images", written.levels(trial.folder / f"out-{source}", "top"), LEVELS, within)
    trial.vla("data", "verify", source, "--workers=1", says="2 records.* 0 damaged")


@case("huggingface/lerobot#933")
def a_film_of_another_rate(trial: Trial) -> None:
    """A table at 29 fps with a film at 30 is refused, naming both rates."""
    lengths = (40, 40)
    write(trial.folder / "in", lengths, fps=29, film_fps=30)
    trial.vla("data", "convert", "in", "out", "--workers=1", code=2, says=[r"\b29\b", r"\b30\b"])
    trial.vla("data", "verify", "in", "--workers=1", code=1, says="2 damaged")


@case("huggingface/lerobot#2364")
def a_film_of_another_rate_in_one_file(trial: Trial) -> None:
    """The same in v3.0, where the film of all episodes is one."""
    write(trial.folder / "in", (40, 40), version="v3.0", fps=29, film_fps=30)
    trial.vla("data", "convert", "in", "out", "--workers=1", code=2, says=[r"\b29\b", r"\b30\b"])


@case()
def a_film_of_half_the_rate(trial: Trial) -> None:
    """A table at 20 fps with a film at 10 is refused."""
    write(trial.folder / "in", (8,), fps=20, film_fps=10)
    trial.vla("data", "convert", "in", "out", "--workers=1", code=2)


@case()
def ntsc(trial: Trial) -> None:
    """A film at 30000/1001 frames per second in a set that says 29.97 is read."""
    for version in ("v2.1", "v3.0"):
        write(trial.folder / version, LENGTHS, version=version, fps=29.97, film_fps=Fraction(30000, 1001))
        right_images(trial, version)


@case("huggingface/lerobot#1488")
def codecs(trial: Trial) -> None:
    """AV1, HEVC and H.264 films are read, in v2.1 and v3.0."""
    large = {FILM: lambda e, n: [plain(level(e, t), (64, 96)) for t in range(n)]}
    for codec, options in (("libsvtav1", {"preset": "10"}), ("libx265", {"x265-params": "log-level=none"}), ("libx264", {})):
        for version in ("v2.1", "v3.0"):
            name = f"{codec}-{version}"
            write(trial.folder / name, LENGTHS, version=version, films=large, encoding={"codec": codec, **options})
            right_images(trial, name, 6)


@case("gcanat/video_reader-rs#78")
def b_frames_and_long_groups(trial: Trial) -> None:
    """Films with B-frames, one key frame or open groups give each step its own frame."""
    encodings = {
        "b": {"bf": "3", "g": "12"},
        "one": {"g": "250"},
        "open": {"bf": "2", "g": "4", "x264-params": "open-gop=1:log-level=0"},
    }
    for name, options in encodings.items():
        write(trial.folder / name, LENGTHS, version="v3.0", encoding=options)
        right_images(trial, name)


@case("jashshah999/lerobot-doctor#7")
def too_few_frames(trial: Trial) -> None:
    """A film that ends early is named by verify, and skipped."""
    write(trial.folder / "in", LENGTHS, films={FILM: lambda e, n: frames(e, n - (e == 1))})
    trial.vla("data", "verify", "in", "--workers=1", code=1, says="episode 1.* 1 damaged")
    trial.vla("data", "convert", "in", "out", "--workers=1", "--on-error=skip", code=1)
    trial.equal("episodes", written.lengths(trial.folder / "out"), [6])


@case("jashshah999/lerobot-doctor#7")
def too_many_frames(trial: Trial) -> None:
    """Frames after the episode's last step do not matter."""
    write(trial.folder / "in", LENGTHS, films={FILM: lambda e, n: frames(e, n + 3)})
    right_images(trial)


@case("huggingface/lerobot#2627")
def times_of_another_film(trial: Trial) -> None:
    """An episode of a merged set whose from_timestamp lies beyond its film is named, not given other frames."""
    write(trial.folder / "in", LENGTHS, version="v3.0")
    episodes_table(trial.folder / "in", lambda entries: entries[1].update({f"videos/{FILM}/from_timestamp": 460.4}))
    trial.vla("data", "verify", "in", "--workers=1", code=1, says="episode 1.* 1 damaged")
    trial.vla("data", "convert", "in", "out", "--workers=1", "--on-error=skip", code=1)
    trial.near("images", written.levels(trial.folder / "out", "top"), LEVELS[:6], 4)


@case("huggingface/lerobot#933")
def rounded_timestamps(trial: Trial) -> None:
    """Timestamps that were rounded to milliseconds mean the same frames, or are refused as times that no frame has."""
    columns = {"timestamp": lambda e, n: pa.array((np.arange(n) / 30).round(3).astype(np.float32))}
    write(trial.folder / "in", LENGTHS, fps=30, columns=columns)
    output = trial.vla("data", "convert", "in", "out", "--workers=1", code=(0, 2))
    if (trial.folder / "out/card.yaml").exists():
        trial.near("images", written.levels(trial.folder / "out", "top"), LEVELS, 4)
    else:
        trial.true(f"the refusal does not speak of times: {output}", "time" in output)


@case("huggingface/lerobot#2364")
def times_within_the_file_in_float32(trial: Trial) -> None:
    """Times of episodes far into a film that were kept in 32 bits still mean their own frames."""
    write(
        trial.folder / "in",
        (400, *LENGTHS),
        version="v3.0",
        fps=30,
        films={FILM: lambda e, n: frames((e - 1) % 3, n) if n < 99 else frames(0, 1) * n},
    )

    def round_times(entries: list[dict]) -> None:
        for entry in entries:
            entry[f"videos/{FILM}/from_timestamp"] = float(np.float32(entry[f"videos/{FILM}/from_timestamp"]))

    episodes_table(trial.folder / "in", round_times)
    trial.vla("data", "convert", "in", "out", "--workers=1", "--episodes=1:3")
    trial.near("images", written.levels(trial.folder / "out", "top"), LEVELS, 4)


@case()
def a_film_that_is_no_film(trial: Trial) -> None:
    """A file that holds no video is that episode's damage."""
    folder = write(trial.folder / "in", LENGTHS)
    path = next(p for p in folder.rglob("episode_000001.mp4"))
    path.write_bytes(b"\0" * 2000)
    trial.vla("data", "verify", "in", "--workers=1", code=1, says="episode 1.* 1 damaged")
    trial.vla("data", "convert", "in", "out", "--workers=1", "--on-error=skip", code=1)
    trial.equal("episodes", written.lengths(trial.folder / "out"), [6])


@case()
def a_film_that_begins_late(trial: Trial) -> None:
    """A film whose first frame is not at time 0 gives each step its own frame, or is refused; never the next step's."""
    import av

    folder = write(trial.folder / "in", LENGTHS)
    for path in folder.rglob("*.mp4"):
        packets = []
        with av.open(str(path)) as film:
            stream = film.streams.video[0]
            packets = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in film.demux(stream) if p.dts is not None]
            shift = int(round(1 / 10 / stream.time_base))
            with av.open(str(path.with_suffix(".new.mp4")), "w") as late:
                copy = late.add_stream_from_template(stream)
                for data, pts, dts, key in packets:
                    packet = av.Packet(data)
                    packet.pts, packet.dts, packet.time_base, packet.stream = pts + shift, dts + shift, stream.time_base, copy
                    packet.is_keyframe = key
                    late.mux(packet)
        path.with_suffix(".new.mp4").rename(path)
    trial.vla("data", "convert", "in", "out", "--workers=1", code=(0, 2))
    if (trial.folder / "out/card.yaml").exists():
        trial.near("images", written.levels(trial.folder / "out", "top"), LEVELS, 4)
