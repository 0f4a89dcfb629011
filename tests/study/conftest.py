"""A small study: noise for images, a random model, episodes of a few steps."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from vla import cli

ROOT = Path(__file__).resolve().parents[2]
STEPS = 20


def recipe(folder, vlm, data):
    def source(kind, name):
        return {"class_path": f"vla.datasets.{kind}", "init_args": {"folder": str(data / name), "weight": 0.5, "holdout": 0.25}}

    return {
        "contract": {"chunk": 2, "execute": 1, "plan": []},
        "data": {
            "batch_size": 4,
            "val_samples": 4,
            "decoded_samples": 0,
            "epoch_steps": STEPS,
            "sources": {
                "robot": source("robot.RobotSource", "robot"),
                "questions": source("questions.QuestionSource", "questions"),
            },
        },
        "model": {"vlm": str(vlm), "warmup": 2},
        "trainer": {
            "accelerator": "cpu",
            "precision": "32-true",
            "max_steps": STEPS,
            "num_sanity_val_steps": 0,
            "val_check_interval": STEPS // 2,
            "check_val_every_n_epoch": None,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "default_root_dir": str(folder / "elsewhere"),
        },
    }


@pytest.fixture(scope="session")
def write(vlm, data):
    """write(folder): the files of a study there; returns the study's content."""

    def make(folder):
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(folder, vlm, data)))
        suite = {"tasks": ["lift"], "episodes": 2, "horizon": 3, "kinds": ["correct"], "variations": {"seen": {}}}
        (folder / "few.yaml").write_text(yaml.safe_dump(suite))
        # Half as large a batch of robot data alone has as many robot samples.
        alone = {"data.batch_size": 2, "data.sources.questions.init_args.weight": 0}
        return {
            "recipe": str(folder / "recipe.yaml"),
            "out": str(folder / "out"),
            "arms": {"robot": {"about": "robot data alone", "overlay": alone}, "both": {"about": "with questions"}},
            "seeds": [0],
            "suites": [str(folder / "few.yaml")],
            "films": 0,
            "workers": 1,
        }

    return make


def save(folder, content):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(path)


@pytest.fixture
def content(write, tmp_path):
    """The content of a study in `tmp_path`."""
    return write(tmp_path)


@pytest.fixture
def run(content, tmp_path, capfd):
    """run(*arguments, **changes): `vla study` with changes of its file; returns exit code, output and errors."""

    def run_study(*arguments, **changes):
        code = cli.main(["study", "-c", save(tmp_path, {**content, **changes}), *arguments])
        printed = capfd.readouterr()
        assert "Traceback" not in printed.err
        return code, printed.out, printed.err

    return run_study


@pytest.fixture(scope="session")
def finished(write, tmp_path_factory):
    """A study that was told to end in its first training, and run again: its folder, and what was said both times."""
    folder = tmp_path_factory.mktemp("study")
    command = [sys.executable, "-m", "vla", "study", "-c", save(folder, write(folder))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    saved = folder / "out/runs/robot-0/train/checkpoints"
    while first.poll() is None and not list(saved.glob("step=*.ckpt")):
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    told = first.communicate(timeout=300)[0]
    then = sorted(path.name for path in saved.glob("step=*.ckpt"))
    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800)
    assert second.returncode == 0, second.stdout + second.stderr
    return folder / "out", (first.returncode, told, then), second.stdout


@pytest.fixture
def copied(finished, tmp_path):
    """The finished study in `tmp_path / "out"`."""
    return Path(shutil.copytree(finished[0], tmp_path / "out", symlinks=True))
