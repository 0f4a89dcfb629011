"""The commands `vla rl fit | probe`."""

import json

import pytest
import yaml

from vla import cli

pytest.importorskip("stable_baselines3")
pytest.importorskip("minigrid")


BASE = ["-c", "configs/rl/babyai.yaml"]


def test_a_run_from_the_command_line(vlm, tmp_path, capsys):
    overlay = {
        "out": str(tmp_path / "run"),
        "environment": {"name": "BabyAI-GoToObj-v0", "count": 2},
        "observation": {"vlm": str(vlm), "prompt": "Q: {object}? A:", "representation": {"tokens": 1, "batch": 2}},
        "policy": {"pooler": {"width": 8, "heads": 1, "hidden": 8, "out": 4}},
        "learner": {"arguments": {"n_steps": 8, "batch_size": 8, "n_epochs": 1}},
        "budget": {"checkpoint": 16},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(overlay))
    arguments = ["--budget.steps", "16", "--observation.representation.tokens=2"]
    command = ["rl", "fit", *BASE, "-c", str(tmp_path / "mine.yaml"), *arguments]
    assert cli.main(command) == 0
    assert "16 steps" in capsys.readouterr().out and (tmp_path / "run/export/rl.json").is_file()
    assert cli.main([*command, "--seed", "3"]) == 2 and "another seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rl", "fly"], "one of fit, probe, table, questions"),
        (["rl", "fit", "-c", "configs/rl/none.yaml"], "configs/rl/prompts/babyai/task.yaml"),
        (["rl", "fit", *BASE, "--policy.net=many"], "vla rl fit: policy.net: expected list"),
        (["rl", "fit", *BASE, "--out", "{tmp}/file"], "file: nothing can be written there"),
        (["rl", "probe", *BASE, "--page", "{tmp}"], "a folder is there"),
        (["rl", "questions", "--out", "{tmp}/x", "--seed", "-1"], "seed -1"),
        (["rl", "questions", "--out", "{tmp}/x", "--alone", "0"], "20000 and 0 images"),
        (["rl", "questions", "--out", "{tmp}/file"], "file: nothing can be written there"),
        (["rl", "table", "--policy", "random", "--policy", "{tmp}/none", "--out", "{tmp}/x"], "none: no such policy"),
        (["rl", "table", "--policy", "random", "--policy", "random", "--out", "{tmp}/x", "--workers", "-1"], "workers -1"),
    ],
)
def test_mistakes_are_said(arguments, message, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main([argument.format(tmp=tmp_path) for argument in arguments]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_a_folder_that_is_not_there_is_no_public_name(tmp_path, capsys):
    command = ["rl", "fit", *BASE, "--observation.vlm", "runs/of/mine", "--out", str(tmp_path)]
    assert cli.main(command) == 2
    assert "no such folder" in capsys.readouterr().err


def test_conditions_are_probed_as_overlays_of_a_base(vlm, tmp_path, capsys):
    (tmp_path / "small.yaml").write_text(f"observation: {{vlm: {vlm}, representation: {{tokens: 1, words: 40}}}}\n")
    base = ["--base", "configs/rl/babyai.yaml", "--base", str(tmp_path / "small.yaml")]
    conditions = [part for name in ("task", "irrelevant") for part in ("-c", f"configs/rl/prompts/babyai/{name}.yaml")]
    assert cli.main(["rl", "probe", *base, *conditions, "--images", "40", "--out", str(tmp_path / "probes.json")]) == 0
    probes = json.loads((tmp_path / "probes.json").read_text())["probes"]
    assert [one["condition"] for one in probes] == ["small-task", "small-irrelevant"] and "small-task" in capsys.readouterr().out
