"""The settings of arms and cells, what is asked, and which scenes are filmed."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from vla.datasets.questions import QuestionSource
from vla.datasets.robot import RobotSource
from vla.report.study import CellRecord, Scenes, SuiteScenes
from vla.report.study_plan import SourceData, TrainingPlan
from vla.study.arms import arguments, changes, relevant, without_off
from vla.study.data import source_data
from vla.study.films import separating
from vla.study.questions import beginning, question_sets
from vla.study.training import cell_settings


def test_an_overlay_is_files_and_settings_in_order():
    with arguments(["one.yaml", {"model": {"vlm": "tiny"}, "data.batch_size": 2, "data.sources.a.folder": "x"}]) as argv:
        assert argv[:3] == ["-c", "one.yaml", "-c"] and argv[4:] == ["--data.batch_size=2", "--data.sources.a.folder=x"]
        assert yaml.safe_load(Path(argv[3]).read_text()) == {"model": {"vlm": "tiny"}}
    with arguments([]) as argv:
        assert argv == []


def settings():
    source = {"class_path": "vla.datasets.robot.RobotSource", "init_args": {"folder": "data", "cache": True, "weight": 0.5}}
    saves = {"class_path": "vla.training.saving.Checkpoints", "init_args": {"dirpath": "x", "monitor": "step", "every": 5}}
    return {
        "seed_everything": 0,
        "data": {"seed": 0, "workers": 2, "predict": "", "sources": {"robot": source}},
        "trainer": {"max_steps": 40, "default_root_dir": "x", "logger": None, "callbacks": [saves]},
        "contract": {"title": "mine", "chunk": 2},
        "model": {"vlm": "tiny", "freeze": None},
        "export": "x/export",
        "evaluate": 8,
        "collect": None,
    }


def test_settings_that_change_no_result_are_no_part_of_a_cells_identity():
    other = settings()
    other |= {"seed_everything": 3, "export": "elsewhere"}
    other["data"] |= {"seed": 3, "workers": 0}
    other["trainer"] |= {"default_root_dir": "elsewhere", "logger": {"class_path": "Logger"}}
    other["trainer"]["callbacks"][0]["init_args"]["dirpath"] = "elsewhere"
    other["data"]["sources"]["robot"]["init_args"]["cache"] = False
    assert relevant(settings()) == relevant(other)
    other["model"]["vlm"] = "scratch"
    assert changes(relevant(settings()), relevant(other)) == {"model.vlm": ["tiny", "scratch"]}
    # One that a later version adds, and that is off.
    other = settings()
    other["model"]["later"] = False
    assert without_off(relevant(settings())) == without_off(relevant(other))


def test_a_source_that_only_one_has_is_named_as_a_whole():
    other = settings()
    source = {"class_path": "vla.datasets.questions.QuestionSource", "init_args": {"folder": "data/wide"}}
    other["data"]["sources"]["wide"] = source
    assert changes(relevant(settings()), relevant(other)) == {"data.sources.wide": ["none", "QuestionSource of data/wide"]}


def test_a_cell_trains_with_its_seed_into_its_own_folder(tmp_path):
    own = cell_settings(settings(), 7, tmp_path)
    assert own["seed_everything"] == own["data"]["seed"] == 7 and not own["export"] and not own["evaluate"]
    (logger,), (saves,) = own["trainer"]["logger"], own["trainer"]["callbacks"]
    assert logger["init_args"]["save_dir"] == own["trainer"]["default_root_dir"] == str(tmp_path / "train")
    assert saves["init_args"] == {"dirpath": str(tmp_path / "train/checkpoints"), "monitor": "step", "every": 5}
    given = settings()
    board = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": "x", "name": "mine"}}
    best = {"class_path": "vla.training.saving.Checkpoints", "init_args": {"dirpath": "x", "monitor": "rollout/success"}}
    given["trainer"] |= {"logger": board, "callbacks": best}
    own = cell_settings(given, 0, tmp_path)["trainer"]
    assert [one["init_args"]["save_dir"] for one in own["logger"]] == [str(tmp_path / "train")] * 2
    # The user's own choice does not take the place of the newest checkpoint, from which a training goes on.
    folders = [one["init_args"]["dirpath"] for one in own["callbacks"]]
    assert folders == [str(tmp_path / "train/rollout-success"), str(tmp_path / "train/checkpoints")]
    assert given["trainer"]["logger"] == board


def test_what_is_asked_is_what_no_arm_trains_on(data):
    folder = str(data / "questions")
    one, two = QuestionSource(folder, holdout=0.5, types={"list": 0.0}), QuestionSource(folder, holdout=0.25, types={"list": 0.0})
    (asked,) = question_sets([], [{"robot": RobotSource(data / "robot"), "q": one}, {"q": two}]).values()
    assert (asked.holdout, asked.split, asked.types) == (0.25, "val", {"list": 0.0}) and len(asked) == 3
    # All of a folder that no arm trains on.
    assert len(question_sets([folder], [{"robot": RobotSource(data / "robot")}])[folder]) == 12


def test_random_weights_are_not_asked():
    for vlm in ("scratch", {"language": "smollm2"}):
        assert beginning({"vlm": vlm, "trust_remote_code": False}, SimpleNamespace(history=1)) is None


def test_the_part_of_the_data_that_is_drawn_is_told(data):
    one = source_data(RobotSource(data / "robot", holdout=0.25, max_samples=5), 40, True)
    assert one.part == "holdout 0.25, max_samples 5" and one.samples == 40 and len(one.content) == 64
    assert source_data(RobotSource(data / "robot"), 1, False).content == ""


def cell(arm, seed, **suites):
    groups = {
        name: SuiteScenes("h", "", 2, 1.0, [Scenes("lift", "seen", "correct", 0, "a b c", digits, "111", digits, {})])
        for name, digits in suites.items()
    }
    plan = TrainingPlan(1, {"robot": SourceData("robot", "d", "c", "", 1)}, "tiny", "panda")
    return CellRecord(arm, seed, "", [], arm, {}, "r", {}, plan, {"seconds": 1, "weights": f"{arm}{seed}"}, {}, {}, groups)


def test_every_arm_and_suite_has_its_turn_among_separating_scenes():
    records = [cell("base", 0, a="100", b="000"), cell("one", 0, a="011", b="100"), cell("two", 0, a="100", b="100")]
    suites = [SimpleNamespace(name=name, kind="correct") for name in "ab"]
    c = SimpleNamespace(arms=[SimpleNamespace(name=n) for n in ("base", "one", "two")], baseline="base", suites=suites)
    found = [(one.suite, one.key[2], one.winner.arm, one.loser.arm) for one in separating(c, records)]
    assert found == [
        ("a", 1, "one", "base"),
        ("b", 0, "one", "base"),
        ("b", 0, "two", "base"),
        ("a", 0, "base", "one"),
        ("a", 2, "one", "base"),
    ]
    first = next(separating(c, records))
    other = dataclasses.replace(first, winner=dataclasses.replace(first.winner, training={"weights": "trained again"}))
    assert first.path != other.path and first.path.name.startswith("a-lift-seen-1-correct-one-0-base-0-")


@pytest.mark.parametrize("value", [True, 0, [1, 2], None, {"a": 1}])
def test_a_dotted_setting_is_any_value(value):
    with arguments({"data.x": value}) as argv:
        assert yaml.safe_load(argv[0].partition("=")[2]) == value
