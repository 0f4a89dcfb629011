"""What a study refuses before anything is trained, and its plan."""

import shutil

import pytest
import yaml

from vla import cli


@pytest.fixture
def refused(run, tmp_path):
    """refused(*arguments, **changes): the error; nothing was trained."""

    def say(*arguments, **changes):
        code, _, errors = run(*arguments, **changes)
        assert code == 2 and not (tmp_path / "out/runs").exists()
        return errors

    return say


def test_the_plan_names_arms_differences_samples_and_cells(run, tmp_path):
    code, said, errors = run("--dry-run", "--cells", "both", "robot-1", seeds=[0, 1])
    assert code == 0, errors
    assert "2 arms × 2 seeds: 4 cells, 0 done; baseline robot" in said
    assert "data.batch_size: 2 (recipe: 4)" in said and "the recipe as it is" in said
    assert said.rstrip().endswith("to run: both-0, robot-1, both-1") and "few: 2 episodes" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("overlay", "key", "said"),
    [
        ({"trainer.max_steps": 12, "data.batch_size": 2}, "steps", "arm other: number of optimizer steps: 12, but robot has 20"),
        ({"data.batch_size": 8}, "robot_samples", "arm other: number of robot samples: 80, but robot has 40"),
        ({"model": {"vlm": "tiny"}}, "start", "arm other: model to start from: tiny, but robot has "),
        ({"data.sources.robot.init_args.holdout": 0.5}, "data", "arm other: robot data: "),
    ],
)
def test_an_arm_that_cannot_be_compared(refused, run, content, overlay, key, said):
    arms = {**content["arms"], "other": {"overlay": overlay}}
    errors = refused(arms=arms)
    assert said in errors and f"`differs: [{key}]`" in errors
    if key == "steps":
        # What is declared is accepted; what is not is still refused.
        arms["other"]["differs"] = ["steps"]
        assert "number of robot samples" in refused(arms=arms)
        arms["other"]["differs"] = ["steps", "robot_samples"]
        code, planned, _ = run("--dry-run", arms=arms)
        assert code == 0 and "declared to differ in its number of optimizer steps: 12 (baseline: 20)" in planned


def test_copies_of_the_data_are_the_same_data(run, data, content, tmp_path):
    shutil.copytree(data / "robot", tmp_path / "copy")
    overlay = {"data.sources.robot.init_args.folder": str(tmp_path / "copy")}
    code, _, errors = run("--dry-run", arms={**content["arms"], "other": {"overlay": overlay}})
    assert code == 0, errors
    (tmp_path / "copy/card.yaml").write_text((tmp_path / "copy/card.yaml").read_text() + "# another\n")
    code, _, errors = run("--dry-run", arms={**content["arms"], "other": {"overlay": overlay}})
    assert code == 2 and "arm other: robot data" in errors and str(tmp_path / "copy") in errors


def test_a_held_out_word_is_named_with_its_record(refused):
    errors = refused(held_out=["orange", "cube"])
    assert "'cube' is held out, but the data have it: 'lift the red cube'" in errors and "shard-000000.tar" in errors


def test_data_that_are_not_there_and_not_collected(refused, content, tmp_path):
    overlay = {"data.sources.questions.init_args.folder": str(tmp_path / "none")}
    errors = refused(arms={**content["arms"], "other": {"overlay": overlay}})
    assert errors.startswith(f"error: arm other: {tmp_path}/none/card.yaml: no dataset card found")


def test_questions_that_are_not_there_and_suites_of_another_robot(refused, tmp_path):
    assert f"{tmp_path}/asked/card.yaml: no dataset card found" in refused(questions=[str(tmp_path / "asked")])
    suite = {"tasks": ["robosuite-Lift"], "episodes": 1, "kinds": ["correct"], "variations": {"seen": {}}}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(suite))
    errors = refused(suites=[str(tmp_path / "other.yaml")])
    assert "arm robot: the suite other is for the robot robosuite-panda, not for panda-tabletop" in errors


def test_what_arms_collect_serves_all_of_them(run, content, tmp_path):
    entry = {"wide": {"out": str(tmp_path / "wide"), "task": "questions", "images": 4, "wide": True}}
    folder = {"data.sources.questions.init_args.folder": str(tmp_path / "wide")}
    arms = {**content["arms"], "one": {"overlay": {"collect": entry, **folder}}, "two": {"overlay": folder}}
    code, said, _ = run("--dry-run", arms=arms)
    assert code == 0 and said.count(f"to be collected: questions, {tmp_path}/wide") == 1 and not (tmp_path / "wide").exists()
    other = {"wide": {**entry["wide"], "images": 5}}
    arms["two"]["overlay"] = {"collect": other, **folder}
    code, _, errors = run("--dry-run", arms=arms)
    assert code == 2 and "two arms collect different data into this folder" in errors


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recipe": "nothing.yaml"}, "nothing.yaml: no such configuration"),
        ({"arms": {}}, "there are no arms"),
        ({"arms": {"a b": {}}}, "arms: arm 'a b'"),
        ({"arms": {"a": {"overlai": 1}}}, "overlai"),
        ({"arms": {"a": {"differs": ["colour"]}}}, "differs"),
        (
            {"arms": {"a": {"overlay": {"model": {"colour": "blue"}}}}},
            "arm a: settings: Subcommand 'fit' does not accept option 'model.colour'",
        ),
        ({"arms": {"a": {"overlay": {"model.colour": "blue"}}}}, "arm a: settings: "),
        ({"arms": {"a": {"overlay": "none.yaml"}}}, "arm a: none.yaml: no such configuration"),
        ({"baseline": "other"}, "baseline: unknown arm 'other'"),
        ({"seeds": [0, 0]}, "seeds: seeds [0, 0]"),
        ({"suites": ["rt2/nothing"]}, "unknown suite 'rt2/nothing'"),
        ({"suites": ["rt2/seen"], "instructions": ["loud"]}, "instructions"),
        ({"films": -1}, "films -1"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_mistakes_in_the_file(refused, changes, said):
    errors = refused(**changes)
    assert said in errors and errors.startswith("error: ")


def test_unknown_cells_and_a_study_without_a_recipe(refused, content, tmp_path, capfd):
    assert "unknown cell 'both-7'" in refused("--cells", "both-7")
    del content["recipe"]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    assert cli.main(["study", "-c", str(tmp_path / "study.yaml")]) == 2
    assert "required: recipe" in capfd.readouterr().err
