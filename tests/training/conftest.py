"""A small recipe: what training tests run."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml

from vla import cli

# For helpers beside the tests, which are no package.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def config(tmp_path, recipe):
    """A small recipe in the form of configs/demo.yaml."""
    return recipe(tmp_path)


@pytest.fixture(scope="session")
def recipe(vlm, data):
    """Writes it for runs in a folder."""
    return lambda folder: write(folder, vlm, data)


@pytest.fixture(scope="session")
def trained_run(recipe, tmp_path_factory):
    """The folder of a run of the small recipe; tests must not change it."""
    folder = tmp_path_factory.mktemp("trained")
    assert cli.main(["fit", "-c", str(recipe(folder))]) == 0
    return folder / "run"


@pytest.fixture
def trained(config, trained_run, tmp_path):
    """The small recipe whose run, in `tmp_path / "run"`, is there already."""
    shutil.copytree(trained_run, tmp_path / "run", symlinks=True)
    return config


def write(tmp_path, vlm, data):
    body = {
        "data": {
            "batch_size": 4,
            "val_samples": 4,
            "epoch_steps": 4,
            "sources": {
                "robot": {
                    "class_path": "vla.datasets.robot.RobotSource",
                    "init_args": {"folder": str(data / "robot"), "weight": 0.5, "holdout": 0.25},
                },
                "questions": {
                    "class_path": "vla.datasets.questions.QuestionSource",
                    "init_args": {"folder": str(data / "questions"), "weight": 0.5, "loss_weight": 0.5, "holdout": 0.25},
                },
            },
        },
        "contract": {"chunk": 2, "execute": 1, "plan": ["where", "reach"]},
        "model": {"vlm": str(vlm), "warmup": 2},
        "trainer": {
            "accelerator": "cpu",
            "precision": "32-true",
            "max_steps": 4,
            "num_sanity_val_steps": 0,
            "val_check_interval": 4,
            "check_val_every_n_epoch": None,
            "log_every_n_steps": 1,
            "gradient_clip_val": 1.0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": str(tmp_path / "run"),
            "logger": {
                "class_path": "lightning.pytorch.loggers.CSVLogger",
                "init_args": {"save_dir": str(tmp_path / "run"), "name": "", "version": "logs"},
            },
            "callbacks": [
                {
                    "class_path": "vla.training.saving.Checkpoints",
                    "init_args": {"dirpath": str(tmp_path / "run/checkpoints"), "every": 2, "keep": 100},
                },
                {"class_path": "vla.training.callbacks.WritePredictions"},
            ],
        },
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(body))
    return path
