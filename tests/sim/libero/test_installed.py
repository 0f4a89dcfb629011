"""The benchmark itself: our environment against its own, rollouts in worker processes. Needs `vla sim install libero`."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from vla import cli
from vla.report import records
from vla.sim.libero.benchmark import initial_states, task_files
from vla.sim.libero.package import PACKAGE
from vla.sim.libero.tasks import TASKS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(PACKAGE.missing()), reason="vla sim install libero"),
]


def parsed(text):
    """A BDDL file as nested lists, in lower case."""
    stack = [[]]
    for token in re.findall(r"[()]|[^\s()]+", re.sub(r";.*", "", text).lower()):
        if token == ")":
            closed = stack.pop()
            stack[-1].append(closed)
        elif token == "(":
            stack.append([])
        else:
            stack[-1].append(token)
    return {group[0]: group[1:] for group in stack[0][0][1:]}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_table_says_what_the_files_say(task):
    content = parsed(task_files(task)[0].read_text())
    assert tuple(map(tuple, content[":goal"][0][1:])) == task.goal.conditions
    said = (
        " ".join(content[":language"]) if "-" in task.suite else re.sub(r"^.*scene\d+_", "", task.file.lower()).replace("_", " ")
    )
    assert said == task.goal.instruction
    assert len(initial_states(task)) == task.scenes


@pytest.mark.parametrize("task", ["libero-spatial-4", "libero-goal-7"])
def test_episodes_are_the_benchmarks_own(task):
    """Bit for bit, in any order: a drawer that begins open, and a stove."""
    code = Path(__file__).with_name("stock_libero.py")
    ran = subprocess.run([sys.executable, str(code), task, "0,2"], capture_output=True, text=True, env=os.environ, timeout=3000)
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout.splitlines()[-1])
    for protocol in ("openvla", "lerobot"):
        for row in report[protocol]:
            for moment in ("begins", "ends"):
                assert row[moment]["state"] and row[moment]["proprioception"] and row[moment]["pixels"] == [0, 0]
            assert min(row["begins"]["fast"]) > 0.9


def test_a_rollout_is_filmed_killed_and_compared(tmp_path, capsys):
    suite = tmp_path / "two.yaml"
    suite.write_text(
        "tasks: [libero-goal-0, libero-goal-1]\nvariations: {seen: {protocol: openpi, rendering: fast}}\n"
        "episodes: 2\nkinds: [correct, swapped]\nhorizon: 6\n"
    )
    run = ["rollout", "--policy", "random", "--suite", str(suite), "--workers", "1", "--videos", "1"]
    assert cli.main([*run, "--out", str(tmp_path / "a")]) == 0
    process = subprocess.Popen([sys.executable, "-m", "vla.cli", *run, "--out", str(tmp_path / "b")])
    journal = tmp_path / "b/episodes.jsonl"
    while process.poll() is None and not (journal.is_file() and journal.stat().st_size):
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            continue
    for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
        child.kill()
    process.kill()
    process.wait()
    assert cli.main([*run, "--out", str(tmp_path / "b")]) == 0
    one, two = (records.load(tmp_path / name) for name in "ab")
    assert [e.to_dict() for e in one.episodes] == [e.to_dict() for e in two.episodes]
    assert one.more["conditions"]["seen"]["protocol"] == "openpi" and one.more["conditions"]["seen"]["rendering"] == "fast"
    assert all(episode.more["fixtures"] for episode in one.episodes)
    assert list((tmp_path / "a/videos").glob("*.mp4"))
    other = tmp_path / "other.yaml"
    other.write_text(suite.read_text().replace("openpi", "ours"))
    run[run.index(str(suite))] = str(other)
    assert cli.main([*run, "--out", str(tmp_path / "c")]) == 0
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "c")]) == 2
    assert "different suites" in capsys.readouterr().err


def test_it_is_a_gymnasium_environment():
    code = (
        "import gymnasium, numpy as np, vla.sim.gym\n"
        "env = gymnasium.make('vla/libero-goal-7-v0', protocol='openvla', rendering='fast', horizon=3, render_mode='rgb_array')\n"
        "o, info = env.reset(seed=1, options={'scene': 2})\n"
        "assert env.observation_space.contains(o) and info == {'instruction': 'turn on the stove', 'scene': 2}\n"
        "for _ in range(3): o, r, done, cut, _ = env.step(np.zeros(7, np.float32))\n"
        "assert cut and not done and env.observation_space.contains(o) and env.render().shape == (256, 512, 3)\n"
        "env.close()\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, timeout=900)
    assert ran.returncode == 0, ran.stderr


def test_it_can_be_installed_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cli.main(["sim", "install", "libero"]) == 0
    assert not PACKAGE.missing() and len([*task_files(TASKS["libero-90-89"])[0].parent.glob("*.bddl")]) == 90
