"""`vla demo --smoke` end to end: all stages, the report, and going on where it was."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def demo(*arguments: str, timeout: int = 230):
    command = [sys.executable, "-m", "vla", "demo", "--smoke", *arguments]
    return subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=timeout)


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
    assert 0 <= report["vqa"]["accuracy"] <= 1 and 0 <= report["vqa"]["blank_accuracy"] <= 1
    assert 0 < report["valid_mass"] <= 1 and report["served"] is True
    assert all(report["seconds"][name] > 0 for name in ("collect", "train", "rollout", "total"))
    parts = sum(seconds for name, seconds in report["seconds"].items() if name != "total")
    # All of it, and nothing twice: starting and reporting take some seconds.
    assert parts <= report["seconds"]["total"] <= parts + report["seconds"]["train"] and report["batch"]["rollout"] >= 1
    assert set(report["commits"]) >= {"collect", "train", "rollout"} and report["commit"] == report["commits"]["train"]
    assert report["peak_pss_mib"] > 100 and report["versions"]["torch"] and report["commit"]


def test_report_page_shows_what_it_names(run):
    out, _ = run
    page = (out / "report.html").read_text()
    for source in re.findall(r'src="([^":]+)"', page):
        assert (out / source).is_file(), source
    assert list((out / "videos").glob("*.mp4"))


def test_last_lines_say_what_to_do_next(run):
    _, done = run
    last = [line for line in done.stdout.splitlines() if line.strip()][-6:]
    assert last[0].startswith("Result:") and last[1].startswith("Report:") and all("vla " in line for line in last[3:])
    assert "minutes" in done.stdout.splitlines()[0]


def test_plain_webdataset_reads_the_shards(run):
    import webdataset as wds

    out, _ = run
    for name, members in (
        ("robot", {"front.jpg", "wrist.jpg", "action.npy", "state.npy", "json"}),
        ("questions", {"front.jpg", "wrist.jpg", "json"}),
    ):
        sample = next(iter(wds.WebDataset(str(out / "data" / name / "shard-000000.tar"), shardshuffle=False).decode("rgb8")))
        assert members <= set(sample) and sample["front.jpg"].shape == (64, 64, 3)


def test_repeated_run_goes_on_from_the_last_whole_stage(run):
    out, _ = run
    again = demo("--out", str(out))
    assert again.returncode == 0 and again.stdout.count("done before") >= 6
    stages = json.loads((out / "stages.json").read_text())
    del stages["done"]["serve"]
    (out / "stages.json").write_text(json.dumps(stages))
    third = demo("--out", str(out))
    assert third.returncode == 0 and "[serve] one action" in third.stdout


def test_other_options_do_not_mix_with_an_earlier_run(run):
    out, _ = run
    done = demo("--out", str(out), "--from-scratch")
    assert done.returncode == 2 and "--fresh" in done.stderr and "Traceback" not in done.stderr


def test_another_demo_is_shown_beside_this_one(run, tmp_path):
    out, _ = run
    other = json.loads((out / "report.json").read_text())
    (tmp_path / "report.json").write_text(json.dumps({**other, "start": "scratch"}))
    assert demo("--out", str(out), "--beside", str(tmp_path)).returncode == 0
    both = json.loads((out / "report.json").read_text())["starting_points"]
    assert list(both) == ["from tiny, this run", "from scratch, the other run"]
    assert "from scratch, the other run" in (out / "report.html").read_text()


def test_starting_over_leaves_nothing_of_before(run):
    """Killed in its first stage, so that it costs little."""
    out, _ = run
    command = [sys.executable, "-m", "vla", "demo", "--smoke", "--fresh", "--out", str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("[collect]") for line in lines)
        process.kill()
    stages = out / "stages.json"
    assert not stages.exists() or json.loads(stages.read_text())["done"] == {}
    assert not (out / "report.json").exists() and not (out / "export").exists()
