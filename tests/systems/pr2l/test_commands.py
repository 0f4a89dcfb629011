"""The command `vla rl`, and every configuration of the package."""

from importlib import resources

import pytest
import yaml

from vla import cli
from vla.commands.configs import find_config

pytest.importorskip("stable_baselines3")
pytest.importorskip("minigrid")

from vla.datasets.questions import QuestionSource
from vla.models.load import load_vlm
from vla.rl.envs.babyai import BabyAI
from vla.rl.runs.build import make_environments
from vla.rl.runs.options import read_options
from vla.systems.pr2l.babyai_questions import COUNTS, WORDINGS, collect_questions

ALL = sorted(f.name for f in (resources.files("vla.configs") / "rl").iterdir())
CONFIGS = [name for name in ALL if name.startswith("babyai-")]
TABLETOP = [name for name in ALL if name.startswith("tabletop-")]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_is_a_run(name):
    options = read_options(["-c", find_config(f"configs/rl/{name}")])
    assert f"babyai-{options.condition}.yaml" == name and options.out == f"runs/rl/babyai-{options.condition}"
    if not {"states", "answer"} & set(options.observe):
        make_environments(options, None).close()


@pytest.mark.parametrize("name", TABLETOP)
def test_every_configuration_of_the_tabletop_learns_from_the_demos_data_but_for_the_reference(name):
    options = read_options(["-c", find_config(f"configs/rl/{name}")])
    assert f"tabletop-{options.condition}.yaml" == name and options.out == f"runs/rl/tabletop-{options.condition}"
    assert options.data == ("" if "ppo" in name else "runs/demo/data/robot") and options.environment.name == "tabletop/lift"
    assert bool(options.vlm) == ("states" in options.observe)


@pytest.mark.parametrize("names", [CONFIGS, [name for name in TABLETOP if "bc" in name]])
def test_conditions_share_everything_but_what_is_seen(names):
    runs = [read_options(["-c", find_config(f"configs/rl/{name}")]) for name in names]
    for shared in ("environment", "algorithm", "arguments", "net", "steps", "checkpoint", "pooler", "data", "chunk"):
        assert all(getattr(run, shared) == getattr(runs[0], shared) for run in runs), shared


def test_a_run_from_the_command_line(vlm, tmp_path, capsys):
    body = {
        "out": str(tmp_path / "run"),
        "environment": {"name": "BabyAI-GoToObj-v0", "count": 2},
        "vlm": str(vlm),
        "prompt": "Q: {object}? A:",
        "representation": {"tokens": 1, "image": False, "batch": 2},
        "pooler": {"width": 8, "heads": 1, "hidden": 8, "out": 4},
        "arguments": {"n_steps": 8, "batch_size": 8, "n_epochs": 1},
        "checkpoint": 16,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(body))
    command = ["rl", "fit", "-c", str(tmp_path / "run.yaml"), "--steps", "16", "--representation.tokens=2"]
    assert cli.main(command) == 0
    assert "16 steps" in capsys.readouterr().out and (tmp_path / "run/export/rl.json").is_file()
    assert cli.main([*command, "--seed", "3"]) == 2 and "another seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rl", "fly"], "one of fit, probe, table, questions"),
        (["rl", "fit", "-c", "configs/rl/none.yaml"], "configs/rl/babyai-task.yaml"),
    ],
)
def test_mistakes_are_said(arguments, said, capsys):
    assert cli.main(arguments) == 2 and said in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_no_public_name(tmp_path, capsys):
    command = ["rl", "fit", "-c", "configs/rl/babyai-task.yaml", "--vlm", "runs/of/mine", "--out", str(tmp_path)]
    assert cli.main(command) == 2
    assert "no such folder" in capsys.readouterr().err


def test_questions_are_a_data_set_with_true_answers(tmp_path):
    collect_questions(str(tmp_path), 30, 10)
    source, alone = (QuestionSource(tmp_path / name) for name in ("questions", "alone"))
    asked = [q for i in range(len(source)) for q in source.questions(i)]
    assert {q["type"] for q in asked} == set(WORDINGS)
    present = [q["answer"] for q in asked if q["type"] == "present"]
    assert present.count("yes") == present.count("no")
    assert all(q["answer"] in COUNTS for q in asked if q["type"] == "count")
    assert all(0 < c < 7 / 8 for q in asked if q["type"] == "where" and q["answer"] != "nowhere" for c in q["answer"][0])
    told = {q["type"]: q["answer"] for q in source.questions(0)}
    places = [q["answer"] for q in source.questions(0) if q["type"] == "where"]
    assert places.count("nowhere") == 2 and all(place[0] in told["list"] for place in places if place != "nowhere")
    assert len(told["list"]) // 2 == COUNTS.index(told["count"])
    assert {q["answer"] for i in range(len(alone)) for q in alone.questions(i) if q["type"] == "count"} <= {"zero", "one"}
    model, processor = load_vlm(tmp_path / "start")
    assert processor.image_tokens == [64] and source.pictures(0)["front"].shape == (64, 64, 3)
    assert BabyAI.fields
