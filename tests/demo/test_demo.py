"""`vla demo --smoke` end to end: all stages, the report, and going on where it was."""

import contextlib
import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from vla import cli

ROOT = Path(__file__).resolve().parents[2]
DEMO = [sys.executable, "-m", "vla", "demo", "--smoke"]
# A minute or two alone; another file's tests have the other core.
pytestmark = pytest.mark.timeout(620)


def demo(*arguments: str, timeout: int = 600):
    return subprocess.run([*DEMO, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout)


@pytest.fixture
def printed_by(capsys):
    """Runs a command in this process, which has imported what it needs; returns what it printed to standard output."""

    def run(*command: str) -> str:
        capsys.readouterr()
        code = cli.main(list(command))
        printed = capsys.readouterr()
        assert code == 0, printed.out + printed.err
        return printed.out

    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "run"
    done = demo("--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done


def test_report_has_every_number(run):
    out, _ = run
    report = json.loads((out / "report.json").read_text())
    for name in ("success", "execution", "recognition", "wrong_object", "swapped_instruction", "empty_instruction"):
        rate = report[name]
        assert rate["n"] == 0 or 0 <= rate["low"] <= rate["rate"] <= rate["high"] <= 1, name
    vqa = report["vqa"]
    assert 0 <= vqa["low"] <= vqa["accuracy"] <= vqa["high"] <= 1 and 0 <= vqa["blank_accuracy"] <= 1
    assert vqa["n"] == vqa["blank"]["n"] == vqa["lead"]["n"] == sum(one["n"] for one in vqa["types"].values())
    for one in vqa["types"].values():
        assert one["low"] <= one["accuracy"] <= one["high"] and one["blank"]["n"] == one["n"]
    assert all({"value", "bar", "holds", "interval", "verdict"} <= set(bar) for bar in report["bars"].values())
    assert 0 < report["valid_mass"] <= 1 and report["served"] is True
    assert all(report["seconds"][name] > 0 for name in ("collect", "train", "correct", "rollout", "total"))
    parts = sum(seconds for name, seconds in report["seconds"].items() if name != "total")
    # All of it, and nothing twice: starting and reporting take some seconds.
    assert parts <= report["seconds"]["total"] <= parts + report["seconds"]["train"] and report["batch"]["rollout"] >= 1
    assert set(report["commits"]) >= {"collect", "train", "rollout"} and report["commit"] == report["commits"]["correct"]
    assert report["peak_pss_mib"] > 100 and report["versions"]["torch"] and report["commit"]


def test_report_page_shows_what_it_names(run):
    out, _ = run
    page = (out / "report.html").read_text()
    for source in re.findall(r'src="([^":]+)"', page):
        assert (out / source).is_file(), source
    assert list((out / "rollout/videos").glob("*.mp4"))


def test_last_lines_say_what_to_do_next(run):
    _, done = run
    last = [line for line in done.stdout.splitlines() if line.strip()][-6:]
    assert last[0].startswith("Result:") and last[1].startswith("Report:") and all("vla " in line for line in last[3:])
    assert re.match(r"About \d+ minutes? and ", done.stdout)


def test_plain_webdataset_reads_the_shards(run):
    import webdataset as wds

    out, _ = run
    for name, members in (
        ("robot", {"front.jpg", "wrist.jpg", "action.npy", "state.npy", "json"}),
        ("dagger", {"front.jpg", "wrist.jpg", "action.npy", "state.npy", "json"}),
        ("questions", {"front.jpg", "wrist.jpg", "json"}),
    ):
        sample = next(iter(wds.WebDataset(str(out / "data" / name / "shard-000000.tar"), shardshuffle=False).decode("rgb8")))
        assert members <= set(sample) and sample["front.jpg"].shape == (64, 64, 3)


@pytest.fixture(scope="module")
def moved(run, tmp_path_factory):
    """The run's folder in another place, under another name."""
    out, _ = run
    return Path(shutil.copytree(out, tmp_path_factory.mktemp("moved") / "renamed", symlinks=True))


def forget(folder: Path, *names: str) -> None:
    """The folder as if these stages had not been done."""
    stages = json.loads((folder / "stages.json").read_text())
    for name in names:
        stages["done"].pop(name, None)
    (folder / "stages.json").write_text(json.dumps(stages))


def test_repeated_run_does_what_is_left_wherever_the_folder_is(run, moved, printed_by, monkeypatch):
    out, _ = run
    monkeypatch.chdir(ROOT)
    again = printed_by("demo", "--smoke", "--out", os.path.relpath(out, ROOT))
    assert again.count("already done") >= 6 and "All stages are already done" in again.splitlines()[0]
    forget(moved, "questions")
    third = printed_by("demo", "--smoke", "--out", str(moved))
    assert "[questions] held-out scenes" in third
    # The first line counts only what is left.
    first = third.splitlines()[0]
    assert first.startswith("About 1 minute more") and first.endswith("already done: collect, train, correct, rollout, serve.")
    # The commands that are named at the end are of the new place.
    assert str(moved) in (moved / "demo.yaml").read_text() and str(out) not in (moved / "demo.yaml").read_text()


def test_the_readmes_command_drives_the_robot_with_the_export(run, tmp_path, printed_by):
    out, _ = run
    (line,) = re.findall(r"^\.venv/bin/vla (rollout .*--instruction.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    paths = {"runs/demo/export": str(out / "export"), "out.mp4": str(tmp_path / "out.mp4")}
    words = shlex.split(line)
    assert set(paths) <= set(words)
    printed = printed_by(*(paths.get(w, w) for w in words))
    assert "success:" in printed and "green cube" in printed and (tmp_path / "out.mp4").stat().st_size > 1000


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_told_to_end_it_ends_training_too(moved, number):
    """Also: while it is at work another one is refused."""
    forget(moved, "train", "correct")
    shutil.rmtree(moved / "first", ignore_errors=True)
    process = subprocess.Popen(
        [*DEMO, "--out", str(moved)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # The tests may run in the background, where a shell has it ignored.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    children = []
    try:
        children = wait_for_training(process)
        if number == signal.SIGTERM:
            children[0].suspend()
            second = demo("--out", str(moved), "--fresh")
            children[0].resume()
            assert second.returncode == 2 and "is running in this folder" in second.stderr, second.stdout + second.stderr
            assert "Traceback" not in second.stderr and (moved / "data" / "robot" / "card.yaml").is_file()
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        left = [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]
    finally:
        for one in (process, *children):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    assert process.returncode == 128 + number and not left
    last = errors.strip().splitlines()[-1]
    assert last.startswith(number.name) and last.endswith(f"vla demo --out {moved} --smoke") and "Traceback" not in errors


def wait_for_training(process: subprocess.Popen) -> list[psutil.Process]:
    """The processes that there are as soon as one of them trains; that is the first."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        children = psutil.Process(process.pid).children(recursive=True)
        for child in children:
            with contextlib.suppress(psutil.Error):
                if "fit" in child.cmdline():
                    return [child, *(other for other in children if other != child)]
        time.sleep(0.1)
    raise AssertionError(f"no training: {process.communicate()}")


def test_other_options_do_not_mix_with_an_earlier_run(run):
    out, _ = run
    done = demo("--out", str(out), "--from-scratch")
    assert done.returncode == 2 and "--fresh" in done.stderr and "Traceback" not in done.stderr


def test_another_demo_is_shown_beside_this_one(run, tmp_path, printed_by):
    out, _ = run
    other = json.loads((out / "report.json").read_text())
    (tmp_path / "report.json").write_text(json.dumps({**other, "start": "scratch"}))
    printed_by("demo", "--smoke", "--out", str(out), "--beside", str(tmp_path))
    both = json.loads((out / "report.json").read_text())["starting_points"]
    assert list(both) == ["from tiny, this run", "from scratch, the other run"]
    assert "from scratch, the other run" in (out / "report.html").read_text()


def test_starting_over_leaves_nothing_of_before(run):
    """Ended in its first stage, so that it costs little; it goes on where it was, not anew."""
    out, _ = run
    command = [*DEMO, "--fresh", "--out", str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("[collect]") for line in lines)
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        lines = process.communicate(timeout=60)[0].splitlines()
    # A simulation process that was just being started may have a last word.
    assert process.returncode == 143 and any(line.endswith(f"vla demo --out {out} --smoke") for line in lines)
    assert not [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]
    stages = out / "stages.json"
    assert not stages.exists() or json.loads(stages.read_text())["done"] == {}
    assert not (out / "report.json").exists() and not (out / "export").exists()
