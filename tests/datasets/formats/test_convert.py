"""Conversions as a whole, from RLDS files: bytes, resuming, reports, splits."""

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import yaml
from rlds_files import LENGTHS, PLAIN, episode, plain, write

from vla.datasets.card import DatasetCard
from vla.datasets.formats import convert
from vla.datasets.formats import job as planning
from vla.datasets.formats.conventions.prepare import Changes
from vla.datasets.formats.conventions.source_card import Part
from vla.datasets.formats.convert import run
from vla.datasets.formats.job import PARTS, ConvertOptions, make_job
from vla.datasets.formats.writers.shards import space
from vla.datasets.index import ShardIndex
from vla.datasets.robot import RobotSource
from vla.datasets.steps import load_steps
from vla.errors import UserError

pytest.importorskip("google_crc32c")

CARD = {
    "title": "toy",
    "embodiment": "toy-arm",
    "cameras": {"front": {"key": "observation/image"}},
    "state": [{"key": "observation/state", "names": ["x", "y"]}],
    "action": [
        {"key": "action", "pick": [0, 1, 2], "names": ["dx", "dy", "dz"], "units": ["m"], "role": "position"},
        {"key": "action", "pick": [3, 4, 5], "names": ["drx", "dry", "drz"], "units": ["rad"], "role": "rotation"},
        {"key": "action", "pick": [6], "names": ["gripper"], "role": "gripper", "low": 0, "high": 1},
    ],
    "instruction": "language_instruction",
    "gripper": "0 closed, 1 open",
    "control_hz": 5,
}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    """Makes the parts small, so that the little data set has three."""
    monkeypatch.setattr(planning, "PART_BYTES", 3000)
    monkeypatch.setattr(planning, "PART_STEPS", 100)


@pytest.fixture
def source(tmp_path):
    plain(tmp_path / "rlds")
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(CARD))
    return tmp_path


def options(root, out="out", **changes):
    return ConvertOptions(**{"source": str(root / "rlds"), "out": str(root / out), "card": str(root / "card.yaml"), **changes})


def converted(root, out="out", **changes):
    report = run(make_job(options(root, out, **changes)))
    return root / out, report


def files(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file() and p.suffix in (".tar", ".yaml", ".json")}


def test_shards_hold_what_the_records_held(source):
    folder, report = converted(source)
    card = DatasetCard.load(folder)
    assert report["records"] == {"found": 4, "written": 4} and report["steps"] == sum(LENGTHS) and not (folder / PARTS).exists()
    assert card.counts == {"episodes": 4, "steps": 18} and card.spec.gripper == "0 closed, 1 open" and card.spec.control_hz == 5
    index = ShardIndex(folder)
    steps = load_steps(index, card.spec)
    # In the order of the files: 0, 2, 1, 3.
    start = 0
    for ordinal, number in enumerate((0, 2, 1, 3)):
        expected = episode(number, LENGTHS[number])
        rows = slice(start, start := start + LENGTHS[number])
        assert np.array_equal(steps.action[rows], expected["steps/action"]) and (steps.episode[rows] == ordinal).all()
        for t, jpeg in enumerate(expected["steps/observation/image"]):
            # JPEGs are passed on byte for byte.
            assert index.read(rows.start + t, ("front.jpg",))["front.jpg"] == jpeg
        assert steps.description(rows.start)["instruction"] == f"lift object {number}"
        assert steps.terminate[rows].tolist() == [False] * (LENGTHS[number] - 1) + [True]
    values = np.concatenate([episode(i, n)["steps/action"] for i, n in enumerate(LENGTHS)])
    assert card.spec.action.statistics["q99"] == pytest.approx(np.quantile(values, 0.99, axis=0), abs=1e-6)
    assert card.spec.action.low[6] == 0 and card.spec.action.constant == (None,) * 7


def test_they_train(source):
    folder, _ = converted(source)
    sample = RobotSource(folder, chunk=2).sample(0, np.random.default_rng(0))
    assert (
        sample.images["front"].shape == (16, 16, 3) and sample.instruction == "lift object 0" and sample.embodiment == "toy-arm"
    )


def test_the_same_bytes_with_several_processes(source):
    one, _ = converted(source, "one")
    job = make_job(options(source, "two"))
    assert len(job.parts) > 1
    run(job, workers=2)
    assert files(one) == files(source / "two")


def test_a_killed_conversion_resumes(source):
    whole, _ = converted(source, "whole")
    job = make_job(options(source, "killed"))

    def killed_after_two_parts():
        parts = iter(range(2))
        write, convert._write_part = (
            convert._write_part,
            lambda *part: (next(parts, None) is None and os.kill(os.getpid(), signal.SIGKILL), write(*part)),
        )
        run(job)

    process = multiprocessing.get_context("fork").Process(target=killed_after_two_parts)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    folder = source / "killed"
    assert (folder / PARTS).is_dir() and not (folder / "card.yaml").exists()
    written = {p.name: p.stat().st_mtime_ns for p in folder.glob("shard-*.tar")}
    assert len(written) == 2
    # There may also be a shard without its note, and an unfinished shard.
    (folder / "shard-000002.tmp").write_bytes(b"half")
    time.sleep(0.01)
    converted(source, "killed")
    assert {name: (folder / name).stat().st_mtime_ns for name in written} == written
    assert files(folder) == files(whole)


def test_a_full_disk_is_reported_and_the_same_command_resumes(source):
    whole, _ = converted(source, "whole")
    job = make_job(options(source, "full"))
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)

    def fails():
        # A limit on file sizes stands in for a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        try:
            run(job)
        except UserError as error:
            sender.send(str(error))

    process = multiprocessing.get_context("fork").Process(target=fails)
    process.start()
    process.join(60)
    assert receiver.poll() and "run the same command again" in receiver.recv()
    assert not list((source / "full").glob("shard-*.tar"))
    converted(source, "full")
    assert files(source / "full") == files(whole)


COMMAND = """
import sys
from vla.cli import main
from vla.datasets.formats import job
if __name__ == "__main__":
    job.PART_BYTES = 3000
    raise SystemExit(main(["data", "convert", *sys.argv[1:], "--workers", "2"]))
"""


def test_the_command_resumes_wherever_it_is_killed(tmp_path):
    """Kills the real command twice: its workers end, every shard is complete, and the result has the same bytes."""
    write(tmp_path / "rlds", [episode(i, 3) for i in range(120)], PLAIN, files=3)
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(CARD))
    (tmp_path / "command.py").write_text(COMMAND)
    whole, report = converted(tmp_path, "whole", share=0.0)
    out, log = tmp_path / "out", tmp_path / "log.txt"
    command = [sys.executable, "command.py", str(tmp_path / "rlds"), str(out), "--card", str(tmp_path / "card.yaml")]

    def start():
        return subprocess.Popen(command, cwd=tmp_path, stdout=log.open("wb"), stderr=subprocess.STDOUT)

    for least in (1, len(report["sha256"]) // 2):
        process = start()
        while len(list(out.glob("shard-*.tar"))) < least:
            assert process.poll() is None, log.read_text()
            time.sleep(0.002)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        assert not psutil.wait_procs(workers, timeout=20)[1]
        assert not (out / "conversion.json").exists()
        for path in out.glob("shard-*.tar"):
            assert path.read_bytes() == (whole / path.name).read_bytes()
    process = start()
    assert process.wait(120) == 0, log.read_text()
    assert "about" in log.read_text() and "written: 120 of 120 records" in log.read_text()
    assert files(out) == files(whole)


def test_a_finished_conversion_is_left_unchanged(source):
    folder, report = converted(source)
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    # As if it had been stopped before it removed its parts.
    (folder / PARTS).mkdir()
    assert converted(source)[1] == report and not (folder / PARTS).exists()
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times
    next(folder.glob("*.tar")).unlink()
    with pytest.raises(UserError, match="not empty"):
        converted(source)


def test_another_conversion_is_refused(source):
    job = make_job(options(source))
    with convert._claim(job, convert._identity(job)), pytest.raises(UserError, match="another process is converting"):
        converted(source)
    with pytest.raises(UserError, match="another conversion was begun here"):
        converted(source, changes=Changes(noops=True))
    (source / "full").mkdir()
    (source / "full/mine.txt").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        converted(source, "full")


def spoil(source, offset):
    """Inverts a byte."""
    path = next((source / "rlds").glob("*00000-of*"))
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def test_damaged_records_are_named_and_counted(source):
    spoil(source, 200)
    with pytest.raises(UserError, match="wrong checksum"):
        converted(source)
    folder, report = converted(source, "skipped", skip=True)
    assert report["records"] == {"found": 4, "written": 3} and report["damaged"]["count"] == 1
    assert "toy-train.tfrecord-00000-of-00002, record 0: the record has a wrong checksum" in report["damaged"]["records"][0]
    assert len(load_steps(ShardIndex(folder), DatasetCard.load(folder).spec).action) == sum(LENGTHS) - LENGTHS[0]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda e: e["steps/observation/image"].__setitem__(3, e["steps/observation/image"][3][:-40]), "cut off or damaged"),
        (lambda e: e["steps/observation/image"].__setitem__(3, b"no image"), "cannot be decoded"),
        (lambda e: e["steps/action"].__setitem__((2, 1), np.nan), "dy is nan at step 2"),
    ],
)
def test_damaged_episodes_leave_no_samples(tmp_path, change, why):
    bad = episode(1, 4)
    change(bad)
    write(tmp_path / "rlds", [episode(0, 3), bad, episode(2, 3)], PLAIN, files=1)
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(CARD))
    folder, report = converted(tmp_path, skip=True)
    assert why in report["damaged"]["records"][0] and "record 1" in report["damaged"]["records"][0]
    keys = ShardIndex(folder).keys
    assert len(keys) == 6 and not any(key.startswith("e000001") for key in keys)


def test_left_out_records_are_reported(source):
    silent = episode(0, 4)
    silent["steps/language_instruction"] = [b""] * 4
    write(source / "rlds", [silent, episode(1, 5)], PLAIN, files=1, name="toy")
    for path in (source / "rlds").glob("*of-00002"):
        path.unlink()
    _, report = converted(source)
    assert report["left_out"]["no instruction"]["count"] == 1 and report["records"]["written"] == 1
    _, report = converted(source, "with_text", changes=Changes(text="lift"))
    assert report["records"]["written"] == 2


def test_splits_divide_episodes(source):
    episodes = {}
    for part in ("train", "val"):
        folder, _ = converted(source, part, part=part, share=0.25)
        episodes[part] = {key.split("_")[0] for key in ShardIndex(folder).keys}
    assert len(episodes["train"]) == 3 and len(episodes["val"]) == 1 and not episodes["train"] & episodes["val"]
    folder, _ = converted(source, "some", episodes="1:3")
    assert {key.split("_")[0] for key in ShardIndex(folder).keys} == {"e000001", "e000002"}
    assert converted(source, "split", split="train")[1]["records"]["found"] == 4
    _, report = converted(source, "both", episodes="1:4", part="train", share=0.3)
    assert report["not_chosen"] == {"--episodes": 1, "--holdout": 1} and report["records"]["found"] == 2
    with pytest.raises(UserError, match="no split 'test'"):
        make_job(options(source, split="test"))


def test_images_are_resized_and_turned(source):
    folder, _ = converted(source, height=8, width=10)
    assert RobotSource(folder, chunk=1).sample(0, np.random.default_rng(0)).images["front"].shape == (8, 10, 3)
    (source / "card.yaml").write_text(
        yaml.safe_dump({**CARD, "cameras": {"front": {"key": "observation/image", "orientation": "raw_opengl"}}})
    )
    turned, _ = converted(source, "turned")
    plain_, _ = converted(source, "plain", card="")
    name = "image"
    one = RobotSource(plain_, chunk=1).sample(17, np.random.default_rng(0)).images[name]
    other = RobotSource(turned, chunk=1).sample(17, np.random.default_rng(0)).images["front"]
    assert np.abs(one[::-1].astype(int) - other).mean() < 4 < np.abs(one.astype(int) - other).mean()


def test_the_expected_size_is_close(source):
    job = make_job(options(source))
    run(job)
    size = sum(p.stat().st_size for p in (source / "out").glob("*.tar"))
    assert 0.4 < job.expected / size < 2.5


def test_constant_dimensions_are_named(tmp_path):
    episodes = [episode(i, 4) for i in range(2)]
    for e in episodes:
        e["steps/action"][:, 5] = 0.25
    write(tmp_path / "rlds", episodes, PLAIN)
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(CARD))
    folder, report = converted(tmp_path)
    spec = DatasetCard.load(folder).spec.action
    assert report["constant"] == {"action drz": 0.25}
    assert spec.constant[5] == 0.25 and spec.low[5] < 0.25 < spec.high[5]


def test_the_lower_limit_is_always_below_the_upper():
    values = {name: (-5.0 if name in ("min", "q01") else -4.0,) for name in ("mean", "std", "min", "max", "q01", "q99")}
    for (low, high), limits in (
        ((None, None), (-5, -4)),
        ((0.0, None), (0, 1)),
        ((None, -9.0), (-10, -9)),
        ((-6.0, None), (-6, -4)),
    ):
        result = space((Part("a", ("x",), low=low, high=high),), values, "quantiles")
        assert (result.low[0], result.high[0]) == limits


def test_the_report_is_saved(source):
    folder, report = converted(source)
    assert json.loads((folder / "conversion.json").read_text()) == report
    assert set(report["sha256"]) == {p.name for p in folder.glob("*.tar")}
