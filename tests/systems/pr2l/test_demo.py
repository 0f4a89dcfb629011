"""The short comparison of the demo's policy with a head."""

import json
import shutil

import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("minigrid")
pytest.importorskip("vla.sim.tabletop.tabletop", exc_type=ImportError)

from vla import cli
from vla.promptable.representation import Settings
from vla.rl.learners.registry import LearnerOptions
from vla.rl.policies.options import PolicyOptions, PoolerOptions
from vla.rl.runs.options import BudgetOptions, RunOptions
from vla.rl.runs.runner import fit
from vla.systems.pr2l.observation import PromptedObservation


def test_without_the_demos_policy_it_says_how_to_make_it(tmp_path, capsys):
    assert cli.main(["demo-pr2l", "--out", str(tmp_path / "out"), "--demo", str(tmp_path)]) == 2
    assert f"demo --out {tmp_path}" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_it_compares_and_goes_on(vlm, data, tmp_path, capsys):
    demo = tmp_path / "demo"
    shutil.copytree(data / "robot", demo / "data/robot")
    standing_in = RunOptions(
        out=str(demo),
        observation=PromptedObservation(str(vlm), representation=Settings(tokens=1, image=False, batch=4)),
        policy=PolicyOptions(PoolerOptions(width=8, hidden=8, out=8)),
        learner=LearnerOptions("bc", {"batch": 4}, str(data / "robot")),
        budget=BudgetOptions(steps=1),
    )
    fit(standing_in)
    command = ["demo-pr2l", "--out", str(tmp_path / "out"), "--demo", str(demo), "--scenes", "1", "--steps", "3"]
    assert cli.main(command) == 0
    output, report = capsys.readouterr().out, json.loads((tmp_path / "out/report.json").read_text())
    assert "Report: " in output and [len(one["curve"][0]) for one in report["heads"].values()] == [3, 3, 3]
    assert [one["success"]["n"] for one in report["policies"]] == [1, 1] and report["policies"][1]["training_seconds"] > 0
    page = (tmp_path / "out/report.html").read_text()
    assert "how many objects are there?" in page and "data:image/svg+xml" in page
    assert cli.main(command) == 0 and capsys.readouterr().out.count("already done") == 4
    assert cli.main([*command, "--scenes", "2"]) == 2 and "other options" in capsys.readouterr().err
