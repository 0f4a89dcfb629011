"""LeRobot data sets v2.0, v2.1 and v3.0: lists of episodes, files and versions."""

from __future__ import annotations

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq

from outside import written
from outside.lerobot_folder import (
    DATA,
    DATA3,
    FILM,
    IMAGE,
    episodes_table,
    images,
    pictured,
    table,
    write,
)
from outside.pixels import encoded, level, plain
from outside.trial import Trial, case


def converted(trial: Trial, lengths: list[int], *more: str, code: int = 0, **checks) -> list[written.Sample]:
    """Converts `in` and checks the episodes' lengths and the first action of each."""
    trial.vla("data", "convert", "in", "out", "--workers=1", *more, code=code, **checks)
    trial.equal("episodes", written.lengths(trial.folder / "out"), lengths)
    return written.samples(trial.folder / "out")


def first(found: list[written.Sample]) -> list[list[float]]:
    """The first action of each episode: its step and its number."""
    return [s.array("action").round(3).tolist() for s in found if s.info["step"] == 0]


@case("huggingface/lerobot#831")
def deleted_episodes(trial: Trial) -> None:
    """Episodes 0, 3 and 4 of a set with total_episodes 3 are three whole ones."""
    pictured(trial.folder / "in", {0: 3, 3: 4, 4: 2})
    trial.vla("data", "verify", "in", "--workers=1", says="3 records.* 0 damaged")
    samples = converted(trial, [3, 4, 2])
    trial.equal("actions", first(samples), [[0, 0], [0, 3], [0, 4]])


@case("huggingface/lerobot#943")
def deleted_episodes_and_a_split(trial: Trial) -> None:
    """A split counts places: train 0:3 of these is all three."""
    pictured(trial.folder / "in", {0: 3, 3: 4, 4: 2})
    converted(trial, [3, 4, 2], "--split=train")


@case("huggingface/lerobot#1372")
def an_episode_that_was_recorded_again(trial: Trial) -> None:
    """total_episodes 4 with three listed: the missing one is reported, the others are converted with --on-error skip."""
    pictured(trial.folder / "in", {0: 3, 1: 4, 2: 2}, info={"total_episodes": 4})
    converted(trial, [3, 4, 2], "--on-error=skip", code=1, says="lack")


@case("huggingface/lerobot#2401")
def a_stale_place_in_the_meta(trial: Trial) -> None:
    """An episode of which data/file_index names the file before is read rightly or named; never another's rows."""
    folder = pictured(trial.folder / "in", (3, 4), version="v3.0")
    path = folder / DATA3.format(chunk_index=0, file_index=0)
    whole = pq.read_table(path)
    pq.write_table(whole.slice(0, 3), path)
    pq.write_table(whole.slice(3), folder / DATA3.format(chunk_index=0, file_index=1))
    trial.vla("data", "convert", "in", "out", "--workers=1", "--on-error=skip", code=(0, 1))
    trial.equal("actions", first(written.samples(trial.folder / "out"))[0], [0, 0])
    output = trial.vla("data", "verify", "in", "--workers=1", code=(0, 1))
    trial.true(f"it is neither read nor named: {output}", "2 records" in output or "episode 1" in output)


@case("huggingface/lerobot#2429")
def places_that_are_null(trial: Trial) -> None:
    """An episode whose chunk_index is null is one damaged episode, not the end of the command."""
    write(trial.folder / "in", (3, 4, 2), version="v3.0")
    episodes_table(trial.folder / "in", lambda entries: entries[1].update({f"videos/{FILM}/chunk_index": None}))
    trial.vla("data", "verify", "in", "--workers=1", code=1, says="episode 1.* 1 damaged")
    converted(trial, [3, 2], "--on-error=skip", code=1)


@case("huggingface/lerobot#4143")
def a_length_of_zero_in_the_meta(trial: Trial) -> None:
    """A wrong length in the list of episodes is named; the episodes after it keep their own rows."""
    pictured(trial.folder / "in", (3, 4, 2), version="v3.0")
    episodes_table(trial.folder / "in", lambda entries: entries[1].update({"length": 0}))
    trial.vla("data", "verify", "in", "--workers=1", code=1, says="episode 1.* 1 damaged")
    samples = converted(trial, [3, 2], "--on-error=skip", code=1)
    trial.equal("actions", first(samples), [[0, 0], [0, 2]])


@case()
def a_null_number_of_an_episode(trial: Trial) -> None:
    """An entry without an episode_index is one damaged entry."""
    pictured(trial.folder / "in", (3, 4, 2), version="v3.0")
    episodes_table(trial.folder / "in", lambda entries: entries[1].update({"episode_index": None}))
    converted(trial, [3, 2], "--on-error=skip", code=1)


@case("huggingface/lerobot#521")
def without_statistics(trial: Trial) -> None:
    """v2.0 and v2.1 without stats.json and episodes_stats.jsonl are read: statistics are computed."""
    for version in ("v2.0", "v2.1"):
        pictured(trial.folder / version, (3, 2), version=version)
        trial.vla("data", "convert", version, f"out-{version}", "--workers=1")
        trial.near(
            "highest action", written.card(trial.folder / f"out-{version}")["spec"]["action"]["statistics"]["max"][0], 0.2, 1e-6
        )


@case("huggingface/lerobot#501")
def a_version_before_the_first_that_is_read(trial: Trial) -> None:
    """v1.6 is refused with the versions that are read."""
    pictured(trial.folder / "in", (3,), info={"codebase_version": "v1.6"})
    trial.vla("data", "convert", "in", "out", code=2, says=r"v1\.6.*v2\.0")


@case("huggingface/lerobot#1999")
def a_rate_of_30_point_0(trial: Trial) -> None:
    """fps 30.0 is 30."""
    pictured(trial.folder / "in", (3,), fps=30.0)
    converted(trial, [3])
    trial.equal("rate", written.card(trial.folder / "out")["spec"]["control_hz"], 30.0)


@case()
def chunks_of_two(trial: Trial) -> None:
    """With chunks_size 2, episode 2 lies in chunk-001."""
    write(trial.folder / "in", (2, 3, 2, 3, 2), info={"chunks_size": 2})
    samples = converted(trial, [2, 3, 2, 3, 2])
    trial.equal("actions", first(samples), [[0, e] for e in range(5)])
    trial.near(
        "images", written.levels(trial.folder / "out", "top"), [level(e, t) for e in range(5) for t in range(2 + e % 2)], 4
    )


@case("huggingface/lerobot#2426")
def part_of_a_download(trial: Trial) -> None:
    """Files that were not downloaded are named; what is there is converted with --on-error skip."""
    folder = write(trial.folder / "in", (3, 4, 2))
    (folder / DATA.format(episode_chunk=0, episode_index=1)).unlink()
    shutil.rmtree(folder / "videos")
    trial.vla("data", "verify", "in", "--workers=1", code=1, says="3 damaged")
    pictured(trial.folder / "other", (3, 4, 2))
    (trial.folder / "other" / DATA.format(episode_chunk=0, episode_index=1)).unlink()
    trial.vla(
        "data", "convert", "other", "out", "--workers=1", "--on-error=skip", code=1, says="episode_000001.parquet is missing"
    )
    trial.equal("episodes", written.lengths(trial.folder / "out"), [3, 2])


@case("huggingface/lerobot#2529")
def a_table_that_is_cut_off(trial: Trial) -> None:
    """A parquet file without its end is that episode's damage, whatever the file."""
    folder = pictured(trial.folder / "in", (3, 4, 2))
    path = folder / DATA.format(episode_chunk=0, episode_index=1)
    path.write_bytes(path.read_bytes()[:-50])
    trial.vla("data", "verify", "in", "--workers=1", code=1, says="episode_000001.parquet.* 1 damaged")
    converted(trial, [3, 2], "--on-error=skip", code=1)


@case("moojink/openvla-oft#3")
def pointers_of_git_lfs(trial: Trial) -> None:
    """Tables and films that git cloned without LFS are named as pointers, with the command that fetches them."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    folder = write(trial.folder / "in", (3, 2))
    for path in folder.rglob("*.parquet"):
        path.write_bytes(pointer)
    trial.vla("data", "convert", "in", "out", "--workers=1", code=2, says="git lfs")
    folder = write(trial.folder / "films", (3, 2))
    for path in folder.rglob("*.mp4"):
        path.write_bytes(pointer)
    trial.vla("data", "convert", "films", "out2", "--workers=1", code=2, says="git lfs")


@case()
def several_data_files(trial: Trial) -> None:
    """v3.0 with episodes and their list in several files is read in order."""
    folder = pictured(trial.folder / "in", (3, 2, 4), version="v3.0")
    columns = {IMAGE: images(lambda e, t: encoded(plain(level(e, t))))}
    pq.write_table(
        pa.concat_tables([table(0, 3, 10, columns), table(1, 2, 10, columns)]), folder / DATA3.format(chunk_index=0, file_index=0)
    )
    (folder / "data/chunk-001").mkdir()
    pq.write_table(table(2, 4, 10, columns), folder / DATA3.format(chunk_index=1, file_index=0))
    episodes_table(folder, lambda entries: entries[2].update({"data/chunk_index": 1}))
    path = folder / "meta/episodes/chunk-000/file-000.parquet"
    whole = pq.read_table(path)
    pq.write_table(whole.slice(0, 1), path)
    pq.write_table(whole.slice(1), path.with_name("file-001.parquet"))
    samples = converted(trial, [3, 2, 4])
    trial.equal("actions", first(samples), [[0, 0], [0, 1], [0, 2]])


@case()
def a_template_without_chunks(trial: Trial) -> None:
    """data_path may have any form that names the episode."""
    folder = pictured(trial.folder / "in", (3, 2))
    for e in range(2):
        (folder / DATA.format(episode_chunk=0, episode_index=e)).rename(folder / f"data/{e}.parquet")
    info = json.loads((folder / "meta/info.json").read_text())
    (folder / "meta/info.json").write_text(json.dumps({**info, "data_path": "data/{episode_index}.parquet"}))
    converted(trial, [3, 2])
