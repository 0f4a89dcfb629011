"""Evaluations into a folder: what they write, how they resume after being killed, and what they refuse."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vla import cli
from vla.errors import UserError
from vla.evaluation import run as evaluation
from vla.evaluation.journal import Journal
from vla.evaluation.run import Evaluation, evaluate
from vla.evaluation.text import outcome
from vla.report import records
from vla.report.records import EpisodeRecord
from vla.sim.suites import read_suite
from vla.sim.workers import Workers

SIM_TESTS = Path(__file__).parents[1] / "sim"
"""Folder of toy_simulation.py."""
SUITE = {
    "tasks": ["lift"],
    "variations": {"seen": {}, "dim": {"light": [0.5, 0.5, 0.5]}},
    "episodes": 3,
    "horizon": 5,
    "kinds": ["correct", "swapped", "empty"],
}


def suite(**changes):
    return read_suite("toy", {**SUITE, **changes}, "")


@pytest.fixture
def toys(toy, monkeypatch):
    """Evaluations run on toys. Returns how often workers were started, and the toy that they hold."""
    state = {"started": 0, "make": toy()}

    def make(engine, count):
        state["started"] += 1
        return Workers(min(count, 2), state["make"])

    monkeypatch.setattr(evaluation, "open_workers", make)
    return state


def content(folder):
    """Returns results.json without `run`, which may differ in another run of the same evaluation; and `run`."""
    results = json.loads((folder / "results.json").read_text())
    run = results.pop("run")
    return results, run


def test_what_an_evaluation_leaves(toys, tmp_path):
    record = evaluate(Evaluation("random", suite(), str(tmp_path), videos=2))
    loaded = records.load(tmp_path)
    assert loaded.episodes == record.episodes and len(record.episodes) == 18
    assert loaded.suite_hash == suite().hash and loaded.contract and loaded.versions["mujoco"]
    assert loaded.more["execute"] == loaded.more["contract_settings"]["execute"] == 1 and loaded.more["scenes"] == 3
    groups = loaded.more["summary"]["groups"]
    assert [(g["variation"], g["kind"]) for g in groups[:3]] == [("seen", "correct"), ("seen", "swapped"), ("seen", "empty")]
    assert groups[0]["success"]["n"] == 3 and groups[0]["success"]["low"] < groups[0]["success"]["rate"]
    # Toys lift by seed, whatever the instruction.
    assert loaded.more["summary"]["language_use"]["all"]["rate"] == 0 and "language use: +0 points" in outcome(record)
    lines = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert len(lines) == 18 and all(line["state"] and "seconds" in line for line in lines)
    films = sorted(p.name for p in (tmp_path / "videos").iterdir())
    assert films == ["grid.mp4", *(f"lift-{v}-0-correct.{ext}" for v in ("dim", "seen") for ext in ("json", "mp4"))]
    page = (tmp_path / "report.html").read_text()
    for words in (
        "lift: dim",
        "Language use",
        "Of those, the right thing",
        "100 % of 3 (44 to 100 %)",
        "wrong object",
        "videos/grid.mp4",
        suite().hash,
        "Empty instruction",
    ):
        assert words in page
    assert "http" not in page
    before = (tmp_path / "episodes.jsonl").read_text()
    again = evaluate(Evaluation("random", suite(), str(tmp_path), videos=3))
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == 4 and again.more["run"]["episodes"] == 1
    assert again.episodes == record.episodes and (tmp_path / "episodes.jsonl").read_text() == before


def test_a_killed_evaluation_resumes_to_the_same_record(toys, tmp_path):
    evaluate(Evaluation("random", suite(), str(tmp_path / "whole")))

    def interrupt(result, done):
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(Evaluation("random", suite(), str(tmp_path / "halves")), interrupt)
    journal = tmp_path / "halves/episodes.jsonl"
    assert journal.read_text().count("\n") == 7 and not (tmp_path / "halves/results.json").exists()
    journal.write_text(journal.read_text() + '{"task": "lift", "varia')
    counts = []
    evaluate(Evaluation("random", suite(), str(tmp_path / "halves"), workers=1), lambda result, done: counts.append(done))
    assert counts == list(range(7, 19))
    assert content(tmp_path / "whole")[0] == content(tmp_path / "halves")[0]
    started = toys["started"]
    evaluate(Evaluation("random", suite(), str(tmp_path / "whole")))
    assert toys["started"] == started and content(tmp_path / "whole")[0] == content(tmp_path / "halves")[0]


def test_kill_nine_loses_no_finished_episode(toys, tmp_path):
    """A separate process is killed while it evaluates: its finished episodes are kept, and the others run afterwards."""
    code = (
        "import sys, functools; sys.path.insert(0, sys.argv[1])\n"
        "from toy_simulation import ToySimulation\n"
        "from vla.evaluation import run as evaluation; from vla.sim.workers import Workers; from test_suite import toy_suite\n"
        "evaluation.open_workers = lambda engine, count: Workers(1, functools.partial(ToySimulation, 'stop'))\n"
        "if __name__ == '__main__': evaluation.evaluate(evaluation.Evaluation('random', toy_suite, sys.argv[2]))\n"
    )
    (tmp_path / "test_suite.py").write_text(
        f"from vla.sim.suites import read_suite\ntoy_suite = read_suite('toy', {SUITE!r}, '')\n"
    )
    (tmp_path / "run.py").write_text(code)
    out = tmp_path / "out"
    command = [sys.executable, str(tmp_path / "run.py"), str(SIM_TESTS), str(out)]
    path = os.pathsep.join([str(Path(evaluation.__file__).parents[2]), str(SIM_TESTS)])
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, start_new_session=True)
    try:
        # Seed 1 stops its worker for good; all of seed 0 is finished by then.
        for _ in range(600):
            if (out / "episodes.jsonl").is_file() and (out / "episodes.jsonl").read_bytes().count(b"\n") == 6:
                break
            assert process.poll() is None
            time.sleep(0.1)
    finally:
        # The whole session: a stopped worker would never end.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)
    before = (out / "episodes.jsonl").read_text()
    assert before.count("\n") == 6
    evaluate(Evaluation("random", suite(), str(out)))
    assert (out / "episodes.jsonl").read_text().startswith(before) and len(content(out)[0]["episodes"]) == 18


def test_restarts_are_in_record_and_page(toys, toy, tmp_path):
    toys["make"] = toy("kill", tmp_path / "marker")
    record = evaluate(Evaluation("random", suite(), str(tmp_path / "out")))
    assert len(record.more["run"]["restarts"]) == 1 and "exit code -9" in record.more["run"]["restarts"][0]
    assert "exit code -9" in (tmp_path / "out/report.html").read_text() and "workers restarted: 1" in outcome(record)


def test_an_evaluation_goes_on_to_more_scenes(toys, tmp_path):
    evaluate(Evaluation("random", suite(), str(tmp_path / "once")))
    few = evaluate(Evaluation("random", suite(episodes=1), str(tmp_path / "more")))
    more = evaluate(Evaluation("random", suite(), str(tmp_path / "more")))
    assert (len(few.episodes), more.more["run"]["episodes"], more.more["scenes"]) == (6, 12, 3)
    assert content(tmp_path / "once")[0] == content(tmp_path / "more")[0]
    counts = []
    again = evaluate(Evaluation("random", suite(episodes=2), str(tmp_path / "more")), lambda _, done: counts.append(done))
    assert len(again.episodes) == 12 and counts == [12] and again.suite_hash == more.suite_hash


def test_another_evaluation_in_the_folder_is_refused_by_name(toys, seeing, tmp_path, monkeypatch):
    load = evaluation.load_policy
    monkeypatch.setattr(evaluation, "load_policy", lambda name, *a, **k: seeing() if name == "random" else load(name, *a, **k))
    evaluate(Evaluation("random", suite(), str(tmp_path)))
    for other, what in (
        (Evaluation("random", suite(seed=5), str(tmp_path)), "suite hash"),
        (Evaluation("expert", suite(), str(tmp_path)), "policy: random, not expert"),
        (Evaluation("random", suite(), str(tmp_path), execute=3), "another execute: 2, not 3"),
    ):
        with pytest.raises(UserError, match=what) as refused:
            evaluate(other)
        assert "--fresh" in str(refused.value)
    other = evaluate(Evaluation("random", suite(), str(tmp_path / "other"), execute=3))
    marked = "ot as the policy is exported: 3 actions were executed of each chunk, its contract says 2"
    assert marked in outcome(other) and marked in (tmp_path / "other/report.html").read_text()
    record = evaluate(Evaluation("expert", suite(seed=5), str(tmp_path), fresh=True))
    assert len(records.load(tmp_path).episodes) == 18 and record.contract is None


def test_journal_refuses_what_it_cannot_read(tmp_path):
    with Journal(tmp_path, {"suite": "a"}) as journal:
        journal.append(EpisodeRecord("lift", "seen", 0, "correct", "", "hash", True, 1, ""))
        with pytest.raises(UserError, match="another process"), Journal(tmp_path, {"suite": "a"}):
            pass
    lines = (tmp_path / "episodes.jsonl").read_text()
    (tmp_path / "episodes.jsonl").write_text(lines + '{"seed": 0}\n')
    with pytest.raises(UserError, match="line 2.task` is missing"), Journal(tmp_path, {"suite": "a"}):
        pass
    (tmp_path / "episodes.jsonl").write_text(lines + "nonsense\n")
    with pytest.raises(UserError, match="line 2 is not JSON"), Journal(tmp_path, {"suite": "a"}):
        pass
    (tmp_path / "evaluation.json").unlink()
    with pytest.raises(UserError, match="an episodes.jsonl without evaluation.json"), Journal(tmp_path, {"suite": "a"}):
        pass


def test_a_policy_whose_folder_was_moved_goes_on_and_another_does_not(tmp_path):
    with Journal(tmp_path, {"policy": "runs/a/export", "weights": "w", "batch": [2]}):
        pass
    with Journal(tmp_path, {"policy": "elsewhere/export", "weights": "w", "batch": [2]}):
        pass
    for other in ({"policy": "elsewhere/export", "weights": "v"}, {"policy": "elsewhere/export", "weights": "w", "batch": [4]}):
        with pytest.raises(UserError, match="another (weights|batch)"), Journal(tmp_path, {"batch": [2], **other}):
            pass
    # Of a policy without local files the name is all that is known.
    with Journal(tmp_path / "served", {"policy": "http://a", "weights": None}):
        pass
    with pytest.raises(UserError, match="another policy"), Journal(tmp_path / "served", {"policy": "http://b", "weights": None}):
        pass


def test_a_policy_that_breaks_ends_the_run_which_can_be_resumed(toys, seeing, tmp_path, monkeypatch):
    broken = seeing(lambda o, actions: actions + (float("nan") if "/dim/2/" in o.id else 0))
    monkeypatch.setattr(evaluation, "load_policy", lambda *_, **__: broken)
    options = Evaluation("mine", suite(), str(tmp_path))
    with pytest.raises(UserError, match="NaN") as refused:
        evaluate(options)
    assert "episode lift/dim/2/" in str(refused.value)
    kept = (tmp_path / "episodes.jsonl").read_text()
    assert kept
    broken.spoil = lambda o, actions: actions
    evaluate(options)
    assert (tmp_path / "episodes.jsonl").read_text().startswith(kept)


def test_the_command(toys, tmp_path, capsys):
    (tmp_path / "toy.yaml").write_text("tasks: lift\nvariations: {seen: {}}\nepisodes: 2\nhorizon: 4\n")
    out = str(tmp_path / "out")
    assert cli.main(["rollout", "--policy", "random", "--suite", str(tmp_path / "toy.yaml"), "--out", out, "--videos", "1"]) == 0
    shown = capsys.readouterr().out
    assert "correct instruction: success" in shown and "language use" in shown and records.load(out).suite == "toy"
    for policy in ("random", "expert"):
        film = tmp_path / f"{policy}.mp4"
        options = ["--instruction", "lift the green cube", "--out", str(tmp_path / policy), "--video", str(film)]
        assert cli.main(["rollout", "--policy", policy, *options]) == 0
        assert film.is_file() and records.load(tmp_path / policy).episodes[0].instruction == "lift the green cube"
    for wrong, says in (
        (["--suite", "rt2/seen"], "add --out"),
        (["--suite", "rt2/seen", "--out", out, "--seed", "3"], "a suite defines its own"),
        (["--suite", "rt2/sene", "--out", out], "rt2/seen"),
        (["--episodes", "-1"], "at least 0"),
        (["--execute", "2"], "--execute 2, but a chunk has 1 actions"),
    ):
        assert cli.main(["rollout", "--policy", "random", *wrong]) == 2
        assert says in capsys.readouterr().err
