"""A small study: noise for images, a random model, episodes of a few steps."""

import shutil

import pytest
import yaml

from vla import cli


def recipe(folder, vlm, data):
    return {
        "contract": {"chunk": 2, "execute": 1, "plan": []},
        "data": {
            "batch_size": 4,
            "val_samples": 4,
            "decoded_samples": 0,
            "epoch_steps": 4,
            "sources": {
                "robot": {
                    "class_path": "vla.datasets.robot.RobotSource",
                    "init_args": {"folder": str(data / "robot"), "weight": 0.5, "holdout": 0.25},
                },
                "questions": {
                    "class_path": "vla.datasets.questions.QuestionSource",
                    "init_args": {"folder": str(data / "questions"), "weight": 0.5, "holdout": 0.25},
                },
            },
        },
        "model": {"vlm": str(vlm), "warmup": 2},
        "trainer": {
            "accelerator": "cpu",
            "precision": "32-true",
            "max_steps": 4,
            "num_sanity_val_steps": 0,
            "val_check_interval": 2,
            "check_val_every_n_epoch": None,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "default_root_dir": str(folder / "elsewhere"),
        },
    }


def study(folder, recipe):
    return {
        "recipe": str(recipe),
        "out": str(folder / "out"),
        "arms": {
            "robot": {
                "about": "robot data alone",
                "overlay": {"data.batch_size": 2, "data.sources.questions.init_args.weight": 0},
            },
            "both": {"about": "with questions"},
        },
        "seeds": [0],
        "suites": [str(folder / "few.yaml")],
        "films": 1,
        "workers": 1,
    }


@pytest.fixture(scope="session")
def write(vlm, data):
    """write(folder): the files of a study; returns the study's, and its content."""

    def make(folder):
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(folder, vlm, data)))
        suite = {"tasks": ["lift"], "episodes": 2, "horizon": 3, "kinds": ["correct"], "variations": {"seen": {}}}
        (folder / "few.yaml").write_text(yaml.safe_dump(suite))
        content = study(folder, folder / "recipe.yaml")
        (folder / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return folder / "study.yaml", content

    return make


@pytest.fixture
def written(write, tmp_path):
    """The files of a study in `tmp_path`."""
    return write(tmp_path)


@pytest.fixture
def run(written, capsys):
    """run(*arguments, **changes): `vla study` with changes of its file; returns exit code, output and errors."""
    path, content = written

    def run_study(*arguments, **changes):
        path.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
        code = cli.main(["study", "-c", str(path), *arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_study


@pytest.fixture
def copied(finished, written, tmp_path):
    """The finished study, in `tmp_path / "out"`."""
    shutil.copytree(finished, tmp_path / "out", symlinks=True)
    return tmp_path / "out"
