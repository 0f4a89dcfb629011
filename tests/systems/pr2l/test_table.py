"""Policies on the same episodes."""

import dataclasses
import json

import pytest

from vla import cli

pytest.importorskip("stable_baselines3")
pytest.importorskip("minigrid")

from vla.promptable.representation import Settings
from vla.rl.learners.registry import LearnerOptions
from vla.rl.policies.options import PolicyOptions, PoolerOptions
from vla.rl.runs.options import BudgetOptions, RunOptions
from vla.rl.runs.runner import fit
from vla.systems.pr2l.observation import CacheOptions, PromptedObservation
from vla.systems.pr2l.table import readable_table, states_kept, training_seconds


@pytest.fixture(scope="module")
def options(vlm, data, tmp_path_factory):
    """A finished run."""
    run_options = RunOptions(
        out=str(tmp_path_factory.mktemp("bc") / "run"),
        observation=PromptedObservation(
            str(vlm),
            representation=Settings(tokens=2, batch=4, image=False, words=32),
            cache=CacheOptions(str(tmp_path_factory.mktemp("cache"))),
        ),
        policy=PolicyOptions(PoolerOptions(width=16, hidden=16, out=16), net=[32]),
        learner=LearnerOptions("bc", {"batch": 8}, str(data / "robot")),
        budget=BudgetOptions(2, 2),
    )
    fit(run_options)
    return run_options


def test_a_table_says_where_states_were_there_before_training(options, tmp_path):
    fit(dataclasses.replace(options, out=str(tmp_path / "run")))
    assert states_kept(f"{tmp_path}/run/export") and not states_kept(f"{options.out}/export") and not states_kept("random")
    row = {"policy": "p", "success": {"rate": 1, "n": 2, "low": 0, "high": 1}, "first_minus_this": None, "seconds_per_step": 1}
    assert "1.0 min, states cached before" in readable_table([{**row, "training_seconds": 60, "states_kept": True}]).rows[0]


def test_a_table_of_policies_on_the_same_episodes(options, tmp_path, capsys):
    pytest.importorskip("vla.sim.tabletop", exc_type=ImportError)
    suite = tmp_path / "suite.yaml"
    suite.write_text("tasks: [lift]\nepisodes: 2\nhorizon: 3\nkinds: [correct]\nvariations:\n  seen: {}\n")
    policies = ["--policy", "random", "--policy", f"{options.out}/export"]
    command = ["rl", "table", *policies, "--suite", str(suite), "--out", str(tmp_path / "table"), "--workers", "1"]
    assert cli.main(command) == 0
    output, (random, head) = capsys.readouterr().out, json.loads((tmp_path / "table/table.json").read_text())["policies"]
    assert "time per step" in output and (tmp_path / "table/compare.html").is_file()
    assert random["training_seconds"] is None and head["training_seconds"] == training_seconds(head["policy"]) > 0
    assert head["success"]["n"] == 2 and head["first_minus_this"]["rate"] == 0 and head["seconds_per_step"] > 0
    assert cli.main(command[:4]) == 2 and "two or more" in capsys.readouterr().err
