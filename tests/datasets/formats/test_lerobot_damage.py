"""Damage of one episode is that episode's; deleted episodes are no damage."""

import json
from pathlib import Path

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402
from lerobot_files import LENGTHS, VIDEO, WRITERS, action, describe, edit, lines, table, video, write_v2, write_v3  # noqa: E402

from vla.cli import main  # noqa: E402
from vla.datasets.formats.convert import run  # noqa: E402
from vla.datasets.formats.inspection.check import verify  # noqa: E402
from vla.datasets.formats.inspection.describe import statistics  # noqa: E402
from vla.datasets.formats.job import ConvertOptions, make_job  # noqa: E402
from vla.datasets.formats.lerobot_source import LeRobotSource  # noqa: E402
from vla.datasets.formats.readers.lerobot import LeRobotReader  # noqa: E402
from vla.datasets.robot import RobotSource  # noqa: E402
from vla.datasets.sources import read  # noqa: E402
from vla.errors import Unreadable, UserError  # noqa: E402

BOTH = ["v2.1", "v3.0"]


def entries(folder, change):
    """Passes the list of episodes' entries through a function that changes it."""
    path = folder / "meta/episodes.jsonl"
    if path.is_file():
        listed = [json.loads(line) for line in path.read_text().splitlines()]
        change(listed)
        lines(path, listed)
        return
    path = folder / "meta/episodes/chunk-000/file-000.parquet"
    listed = pq.read_table(path).to_pylist()
    change(listed)
    pq.write_table(pa.Table.from_pylist(listed), path)


def replaced(values, **cells):
    """Returns a change of tables that replaces cells of episode 1: column=(row, value)."""

    def change(table, episode):
        for name, (row, value) in cells.items() if episode == 1 else ():
            column = table[name].to_pylist()
            column[row] = value
            table = table.set_column(table.column_names.index(name), name, pa.array(column, table[name].type))
        return table

    return change


def spoilt(folder, tmp_path, why, intact=(0, 2), values=True):
    """Checks that all commands find episode 1 damaged, and read the others."""
    reader = LeRobotReader(folder)
    card, count = reader.card(), sum(LENGTHS[e] for e in intact)
    findings = verify(reader, card)
    assert (findings.records, findings.damaged) == (len(intact), 1), findings.problems
    assert why in findings.problems[0]
    # Statistics of values do not need the images.
    assert len(statistics(reader, card, "lerobot")["not_read"]) == values
    report = run(make_job(ConvertOptions(str(folder), str(tmp_path / "out"), skip=True), reader))
    assert report["records"]["written"] == len(intact) and report["damaged"]["count"] == 1
    assert why in report["damaged"]["records"][0]
    with pytest.raises(UserError) as caught:
        run(make_job(ConvertOptions(str(folder), str(tmp_path / "not"))))
    assert why in f"{caught.value.where}: {caught.value.what}"
    direct, shards = LeRobotSource(folder, chunk=2), RobotSource(tmp_path / "out", chunk=2)
    assert len(direct) == len(shards) == count and np.array_equal(direct.actions, shards.actions)
    assert len(direct.unreadable) == 1 and why in ": ".join(next(iter(direct.unreadable.items())))
    for i in range(count):
        one, other = (source.sample(i, np.random.default_rng(0)) for source in (direct, shards))
        assert np.array_equal(one.actions, other.actions) and one.instruction == other.instruction
        assert all(np.abs(one.images[k].astype(int) - other.images[k]).mean() < 3 for k in one.images)


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ({"action": (2, None)}, "episode 1, action: 1 values are missing"),
        ({"action": (2, [float("nan"), 1.0])}, "x is nan at step 2"),
        ({"action": (2, [None, 1.0])}, "x is nan at step 2"),
        ({"action": (2, [float("inf"), 1.0])}, "x is inf at step 2"),
        ({"observation.state": (1, None)}, "episode 1, observation.state: 1 values are missing"),
        ({"observation.state": (1, [1.0])}, "episode 1, observation.state: the rows have different lengths"),
        ({"observation.images.wrist": (1, None)}, "episode 1, observation.images.wrist: 1 values are missing"),
        ({"observation.images.wrist": (1, {"bytes": None, "path": None})}, "an image is missing"),
        ({"task_index": (3, None)}, "episode 1, task_index: 1 values are missing"),
        ({"task_index": (3, 9)}, "episode 1: task_index is 9, but there are 2 tasks"),
        ({"frame_index": (3, None)}, "episode 1, frame_index: 1 values are missing"),
        ({"frame_index": (3, 1)}, "the episode has 4 rows, not the frames 0 to 3"),
        ({"episode_index": (3, None)}, "the episode has 3 rows, not the frames 0 to 3"),
        ({"timestamp": (3, None)}, "episode 1, timestamp: 1 values are missing"),
        ({"timestamp": (3, float("nan"))}, "episode 1, timestamp: a value is not finite"),
    ],
)
def test_cells(tmp_path, cells, why, version):
    folder = WRITERS[version](tmp_path / "set")
    edit(folder, replaced(None, **cells))
    spoilt(folder, tmp_path, why)


@pytest.mark.parametrize("version", BOTH)
def test_all_vectors_of_an_episode_have_another_length(tmp_path, version):
    folder = WRITERS[version](tmp_path / "set")
    edit(folder, replaced(None, **{"observation.state": (slice(None), [[1.0, 2.0, 3.0]] * LENGTHS[1])}))
    spoilt(folder, tmp_path, "episode 1, observation.state: it has 3 values for 2 names")


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("action", ["a"] * 4, "numbers for each step"),
        ("action", [{"x": 1.0}] * 4, "episode 1, action: it holds x for each step, which is no image"),
        ("action", [[[1.0, None], [2.0]]] * 4, "episode 1, action: "),
        ("task_index", ["a"] * 4, "episode 1, task_index: it holds no number for each step"),
        ("task_index", [[0, 1]] * 4, "episode 1, task_index: it holds no number for each step"),
        ("frame_index", [[0, 1]] * 4, "the episode has 4 rows, not the frames 0 to 3"),
        ("episode_index", ["1"] * 4, "episode 1, data/chunk-000/episode_000001.parquet: the file cannot be read"),
        ("observation.images.wrist", [0.5] * 4, "observation.images.wrist holds no images"),
    ],
)
def test_another_type_in_one_episode(tmp_path, name, values, why):
    folder = write_v2(tmp_path / "set")
    path = folder / "data/chunk-000/episode_000001.parquet"
    rows = pq.read_table(path)
    pq.write_table(rows.set_column(rows.column_names.index(name), name, pa.array(values)), path)
    spoilt(folder, tmp_path, why)


@pytest.mark.parametrize("name", ["length", "episode_index", "data/file_index", "data/chunk_index", "from", "file", "gone"])
@pytest.mark.parametrize("value", [None, float("nan"), -1.0, "x"])
def test_entries_of_episodes(tmp_path, name, value):
    folder = write_v3(tmp_path / "set")
    key = {"from": f"videos/{VIDEO}/from_timestamp", "file": f"videos/{VIDEO}/file_index"}.get(name, name)

    def change(listed):
        for number, entry in enumerate(listed):
            if name == "gone":
                del entry["data/chunk_index"]
            elif number == 1:
                entry[key] = value
            elif value == "x":
                entry[key] = str(entry[key])

    entries(folder, change)
    if name == "gone":
        findings = verify(LeRobotReader(folder), LeRobotReader(folder).card())
        assert findings.damaged == 3 and "data/chunk_index is None" in findings.problems[0]
        return
    spoilt(folder, tmp_path, f"its entry in meta/ is damaged: {key} is {value!r}")


@pytest.mark.parametrize("line", ["", "{", "[]", "null", '{"episode_index": 1}', '{"episode_index": null, "length": 4}'])
def test_lines_of_episodes(tmp_path, line):
    folder = write_v2(tmp_path / "set")
    path = folder / "meta/episodes.jsonl"
    first, _, last = path.read_text().splitlines()
    path.write_text("\n".join((first, line, last)))
    spoilt(folder, tmp_path, "its entry in meta/ is damaged" if line else "episode 1: the list of episodes lacks it")


def test_one_of_several_lists_of_episodes(tmp_path):
    folder = write_v3(tmp_path / "set")
    path = folder / "meta/episodes/chunk-000/file-000.parquet"
    listed = pq.read_table(path)
    for number in range(3):
        pq.write_table(listed.slice(number, 1), path.with_name(f"file-{number:03d}.parquet"))
    path.with_name("file-001.parquet").write_bytes(b"")
    spoilt(folder, tmp_path, "its entry in meta/ is damaged: file-001.parquet: the file cannot be read")
    for number in (0, 2):
        path.with_name(f"file-{number:03d}.parquet").write_bytes(b"")
    with pytest.raises(UserError, match="file-002.parquet: the file cannot be read"):
        LeRobotReader(folder).refs()


def test_a_task_that_is_damaged(tmp_path):
    folder = write_v2(tmp_path / "set")
    lines(folder / "meta/tasks.jsonl", [{"task_index": 0, "task": "pick it"}, {"task_index": None, "task": "place it"}])
    spoilt(folder, tmp_path, "episode 1: task_index is 1, but there are 1 tasks")


@pytest.mark.parametrize("what", ["missing", "cut", "empty", "no video"])
def test_videos(tmp_path, what):
    folder = write_v2(tmp_path / "set")
    path = folder / f"videos/chunk-000/{VIDEO}/episode_000001.mp4"
    content = path.read_bytes()
    path.write_bytes({"missing": b"", "cut": content[:100], "empty": b"", "no video": b"hello" * 99}[what])
    if what == "missing":
        path.unlink()
    missing = what == "missing"
    spoilt(folder, tmp_path, "episode_000001.mp4 is missing" if missing else "the video cannot be read", values=missing)


def test_damage_within_a_video_costs_the_direct_source_its_samples(tmp_path):
    folder = write_v2(tmp_path / "set")
    video(folder / f"videos/chunk-000/{VIDEO}/episode_000001.mp4", [np.zeros((64, 64, 3), np.uint8)] * 2)
    source = LeRobotSource(folder, chunk=1)
    assert len(source) == sum(LENGTHS)
    with pytest.raises(Unreadable, match="ends before frame 3 of 4"):
        source.sample(9, np.random.default_rng(0))
    sample, errors = read(source, 8, 0)
    assert (sample.episode, sample.step) == (2, 0) and len({error.where for error in errors}) == 2


def test_too_many_damaged_episodes_end_the_direct_source(tmp_path, monkeypatch):
    import lerobot_files

    monkeypatch.setattr(lerobot_files, "LENGTHS", (2,) * 14)
    monkeypatch.setattr(lerobot_files, "level", lambda episode, step: 99)
    folder = write_v2(tmp_path / "set")
    for number in range(11):
        (folder / f"data/chunk-000/episode_{number:06d}.parquet").unlink()
    with pytest.raises(UserError, match=r"11 samples of 14 cannot be read, the first of them: .*episode 0"):
        len(LeRobotSource(folder, chunk=1))
    assert len(LeRobotSource(folder, chunk=1, tolerate=0.9)) == 6


def test_nothing_left(tmp_path):
    folder = write_v2(tmp_path / "set")
    for path in (folder / "data/chunk-000").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="episode 0, data/chunk-000/episode_000000.parquet: the file cannot be read"):
        len(LeRobotSource(folder, chunk=1))


def test_a_partial_download(tmp_path):
    folder = write_v2(tmp_path / "set")
    (folder / "data/chunk-000/episode_000001.parquet").unlink()
    (folder / f"videos/chunk-000/{VIDEO}/episode_000001.mp4").unlink()
    spoilt(folder, tmp_path, "data/chunk-000/episode_000001.parquet is missing")


# Deleted episodes.


def deleted(folder, version, numbers=(0, 3, 4), total=3, splits=None):
    """Writes the episodes under the numbers that the deletion of others left them."""
    WRITERS[version](folder)
    names = dict(enumerate(numbers))
    entries(folder, lambda listed: [entry.update(episode_index=names[e]) for e, entry in enumerate(listed)])
    for path in sorted(folder.rglob("*episode_*"), reverse=True):
        if path.is_file():
            path.rename(path.with_name(f"episode_{names[int(path.stem[-6:])]:06d}{path.suffix}"))
    for path in (folder / "data").rglob("*.parquet"):
        rows = pq.read_table(path)
        renamed = [names[e] for e in rows["episode_index"].to_pylist()]
        pq.write_table(rows.set_column(rows.column_names.index("episode_index"), "episode_index", pa.array(renamed)), path)
    describe(folder, total_episodes=total, splits=splits or {"train": "0:2", "val": "2:3"})
    return folder


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize(("numbers", "total"), [((0, 3, 4), 3), ((7, 8, 9), 3), ((0, 3, 4), 2), ((0, 1, 2), 3)])
def test_deleted_episodes_are_no_damage(tmp_path, version, numbers, total):
    folder = deleted(tmp_path / "set", version, numbers, total)
    reader = LeRobotReader(folder)
    assert [ref.name.rpartition(" ")[2] for ref in reader.refs()] == [str(n) for n in numbers]
    findings = verify(reader, reader.card())
    assert (findings.records, findings.steps, findings.damaged) == (3, 15, 0)
    assert {name: len(names) for name, names in reader.splits().items()} == {"train": 2, "val": 1}
    for split, episodes in (("train", [0, 1]), ("val", [2])):
        for skip in (False, True):
            out = tmp_path / f"{split}{skip}"
            assert run(make_job(ConvertOptions(str(folder), str(out), split=split, skip=skip)))["records"]["written"] == len(
                episodes
            )
            expected = np.concatenate([action(e, LENGTHS[e]) for e in episodes])
            assert np.array_equal(RobotSource(out, chunk=1).actions, expected)
    source = LeRobotSource(folder, chunk=1)
    assert len(source) == 15 and not source.unreadable and source.sample(14, np.random.default_rng(0)).episode == 2
    assert main(["data", "verify", str(folder), "--workers", "1"]) == 0


def test_counts_tell_what_is_missing(tmp_path):
    folder = deleted(tmp_path / "a", "v2.1", total=5)
    assert [ref.damage for ref in LeRobotReader(folder).refs() if ref.damage] == ["the list of episodes lacks it"] * 2
    describe(folder, total_episodes=4)
    refs = LeRobotReader(folder).refs()
    assert [ref.damage for ref in refs] == ["", "", "", "the list of episodes lacks 1 more"]
    # It has no place in a split: nobody knows where it was.
    describe(folder, splits={"all": "0:9"})
    assert LeRobotReader(folder).splits()["all"] == {ref.name for ref in refs[:3]}


@pytest.mark.parametrize("version", BOTH)
def test_a_damaged_entry_keeps_its_place_in_the_splits(tmp_path, version):
    folder = WRITERS[version](tmp_path / "a")
    entries(folder, lambda listed: listed[1].update(episode_index=None))
    splits = LeRobotReader(folder).splits()
    assert sorted(Path(name).name for name in splits["train"]) == ["a, entry 1", "a, episode 0"]
    assert [Path(name).name for name in splits["val"]] == ["a, episode 2"]


# Data files.


def test_an_episode_that_is_in_another_file_than_its_entry_says(tmp_path):
    folder = write_v3(tmp_path / "set")
    path = folder / "data/chunk-000/file-000.parquet"
    whole = pq.read_table(path)
    pq.write_table(whole.slice(0, sum(LENGTHS[:2])), path)
    pq.write_table(whole.slice(sum(LENGTHS[:2])), path.with_name("file-001.parquet"))
    reader = LeRobotReader(folder)
    assert verify(reader, reader.card()).damaged == 0
    source = LeRobotSource(folder, chunk=1)
    assert source.sample(14, np.random.default_rng(0)).images["wrist"].shape == (64, 64, 3)
    assert np.array_equal(source.actions[-5:], action(2, 5))
    path.with_name("file-001.parquet").unlink()
    assert "episode 2" in verify(LeRobotReader(folder), reader.card()).problems[0]


def test_a_missing_vector_does_not_harm_others_of_its_file(tmp_path):
    """pyarrow alone cannot read any row beside a missing vector of fixed length."""
    folder = write_v3(tmp_path / "set")
    path = folder / "data/chunk-000/file-000.parquet"
    rows = pa.concat_tables([table(e, n, 0) for e, n in enumerate(LENGTHS)])
    cells = rows["action"].to_pylist()
    cells[7] = None
    pq.write_table(rows.set_column(0, "action", pa.array(cells, rows["action"].type)), path)
    with pytest.raises(pa.ArrowInvalid):
        pq.read_table(path)
    reader = LeRobotReader(folder)
    raw = reader.read(reader.refs()[2])
    assert np.array_equal(raw["action"], action(2, LENGTHS[2])) and len(raw["observation.images.wrist"]) == LENGTHS[2]
    spoilt(folder, tmp_path, "episode 1, action: 1 values are missing")
