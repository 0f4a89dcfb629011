"""What a run leaves beside its checkpoints: rows of CSVLogger, configuration, contract, notes."""

import csv
import warnings

import pytest
import torch
import yaml

from vla import cli
from vla.training.quiet import WARNINGS


def rows(path):
    """The values of each row that are there."""
    with path.open(newline="") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


def steps(path, column="loss"):
    return [int(row["step"]) for row in rows(path) if row.get(column)]


def test_a_resumed_run_goes_on_with_its_rows(trained, tmp_path):
    logs = tmp_path / "run/logs"
    first = rows(logs / "metrics.csv")
    assert cli.main(["fit", "-c", str(trained), "--ckpt_path=last", "--trainer.max_steps=6"]) == 0
    assert steps(logs / "metrics.csv") == [0, 1, 2, 3, 4, 5]
    assert rows(logs / "metrics.csv")[: len(first)] == first
    assert [path.name for path in logs.glob("*.csv")] == ["metrics.csv"]


def test_rows_of_a_part_that_is_done_again_are_put_aside(trained, tmp_path, capsys):
    """As after a kill between two checkpoints; a rollout's row counts the step that is done, Lightning's the one before."""
    body = yaml.safe_load(trained.read_text())
    logs, checkpoints = tmp_path / "run/logs", tmp_path / "run/checkpoints"
    with (logs / "metrics.csv").open(newline="") as file:
        header = file.readline().strip().split(",")
    with (logs / "metrics.csv").open("a", newline="") as file:
        csv.DictWriter(file, header).writerow({"step": 2, "val/robot_loss": 7})
        file.write(",,half a row")
    trained.write_text(yaml.safe_dump(body))
    assert cli.main(["fit", "-c", str(trained), f"--ckpt_path={checkpoints}/step=0000002.ckpt", "--trainer.max_steps=3"]) == 0
    assert (
        steps(logs / "metrics.csv") == [0, 1, 2] and [r.get("val/robot_loss") for r in rows(logs / "metrics.csv")].count("7") == 1
    )
    assert steps(logs / "metrics-before-1.csv") == [2, 3] and "metrics-before-1.csv" in capsys.readouterr().err


def test_a_new_run_in_an_old_folder_loses_nothing(trained, tmp_path):
    logs = tmp_path / "run/logs"
    first = (logs / "metrics.csv").read_bytes()
    for number in (1, 2):
        assert cli.main(["fit", "-c", str(trained), "--trainer.max_steps=1"]) == 0
        assert steps(logs / "metrics.csv") == [0] and (logs / f"metrics-before-{number}.csv").is_file()
    assert (logs / "metrics-before-1.csv").read_bytes() == first


def test_validation_adds_to_the_rows_and_keeps_the_configuration(trained, tmp_path):
    logs = tmp_path / "run/logs"
    with (logs / "metrics.csv").open("a") as file:
        file.write(",,half a row")
    config, first = (logs / "config.yaml").read_bytes(), rows(logs / "metrics.csv")
    for name in ("validate", "predict"):
        assert cli.main([name, "-c", str(trained), "--ckpt_path=last"]) == 0
    after = rows(logs / "metrics.csv")
    assert (
        after[: len(first)] == first
        and len(after) > len(first)
        and after[-1]["val/robot_loss"]
        and (logs / "config.yaml").read_bytes() == config
    )


@pytest.mark.parametrize(
    ("saved", "steps", "said"),
    [
        (4, 8, "falls until step 8; at step 4 it goes from 2e-05 to 0.000755"),
        (2, 8, "falls until step 8; at step 2 it goes from 0.001 to 0.001"),
        (2, 4, ""),
        (4, 4, ""),
    ],
)
def test_another_number_of_steps_is_said(trained, tmp_path, capsys, saved, steps, said):
    checkpoint = f"{tmp_path}/run/checkpoints/step={saved:07d}.ckpt"
    assert cli.main(["fit", "-c", str(trained), f"--ckpt_path={checkpoint}", f"--trainer.max_steps={steps}"]) == 0
    shown = capsys.readouterr().err
    assert said in shown and ("max_steps has changed" in shown) == bool(said)


def test_a_jump_of_the_learning_rate_is_said_for_older_checkpoints(trained, tmp_path, capsys):
    path = tmp_path / "run/checkpoints/step=0000004.ckpt"
    saved = torch.load(path, weights_only=True)
    del saved["steps"]
    torch.save(saved, path)
    assert cli.main(["fit", "-c", str(trained), f"--ckpt_path={path}", "--trainer.max_steps=8"]) == 0
    assert "it goes from 2e-05 to 0.000755" in capsys.readouterr().err


def test_a_value_that_is_never_logged_chooses_no_checkpoint_and_that_is_said(trained, tmp_path, capsys):
    more = ["--trainer.callbacks+=vla.training.saving.Checkpoints", "--trainer.callbacks.monitor=rollout/succes"]
    assert cli.main(["fit", "-c", str(trained), *more, f"--trainer.callbacks.dirpath={tmp_path}/best"]) == 0
    assert "no checkpoint was chosen by rollout/succes" in capsys.readouterr().err


def test_only_known_warnings_are_silenced():
    known = "Checkpoint directory /runs/a exists and is not empty."
    unknown = [
        "Experiment logs directory /runs/a exists and is not empty. Previous log files in this directory will be deleted",
        "The number of training batches is odd",
    ]
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        for noise in WARNINGS:
            warnings.filterwarnings("ignore", message=noise)
        for text in (known, *unknown):
            warnings.warn(text, stacklevel=1)
    assert [str(warning.message) for warning in shown] == unknown
