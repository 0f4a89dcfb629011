"""What an earlier version saved (tests/saved/README.md) loads, resumes, exports and acts."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vla import cli
from vla.contract import PolicyContract
from vla.observation import Observation
from vla.policies.load import load_policy
from vla.sim.tabletop.embodiment import EMBODIMENT

SAVED = Path(__file__).parent / "saved"


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """The working folder: a copy, in which the saved paths hold."""
    folder = shutil.copytree(SAVED, tmp_path / "saved")
    monkeypatch.chdir(folder)
    return folder


def act(export):
    """Actions of the export on the observations of make.py."""
    rng = np.random.default_rng(0)
    images = [{c.name: rng.integers(0, 256, (64, 64, 3), np.uint8) for c in EMBODIMENT.cameras} for _ in range(2)]
    state = np.array([0, 0, 0.1, 0, 0.04])
    goals = ("red cube", "green cylinder")
    seen = [Observation(str(i), images[i], state, f"lift the {goal}") for i, goal in enumerate(goals)]
    return np.array([chunk.actions for chunk in load_policy(export).act(seen)])


def check_actions(export, name):
    """Compares with what the saved export of that name did."""
    expected = json.loads((SAVED / "actions.json").read_text())[name]
    np.testing.assert_allclose(act(export), expected, rtol=0, atol=1e-5)


def test_an_export_acts_as_it_did(saved):
    check_actions("export", "export")


def test_a_training_checkpoint_exports_to_what_it_did(saved):
    assert cli.main(["export", "--ckpt", "training.ckpt", "--out", "again"]) == 0
    check_actions("again", "export")


def test_a_training_resumes_with_the_configuration_of_its_time(saved, capsys):
    longer = ["--model.vlm=export", "--trainer.max_steps=4", "--ckpt_path=training.ckpt"]
    assert cli.main(["fit", "-c", "fit.yaml", *longer]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "is now called" in line]
    names = (("asked", "questions_per_image"), ("lead", "warmup_samples"))
    assert notes == [
        f"note: fit.yaml: `{old}` is now called `{new}`; the next version accepts only the new name" for old, new in names
    ]
    before, after = (torch.load(path, weights_only=True) for path in ("training.ckpt", "run/checkpoints/step=0000004.ckpt"))
    assert (before["global_step"], after["global_step"]) == (2, 4)
    assert PolicyContract.from_dict(after["contract"]).hash == PolicyContract.from_dict(before["contract"]).hash
    assert before["state_dict"].keys() == after["state_dict"].keys()
    assert cli.main(["export", "--ckpt", "run/checkpoints/step=0000004.ckpt", "--out", "later"]) == 0
    assert np.isfinite(act("later")).all()


def test_a_longer_run_says_that_its_learning_rate_jumps(saved, capsys):
    Path("fit.yaml").write_text(Path("fit.yaml").read_text().replace("warmup: 2", "warmup: 0"))
    assert cli.main(["fit", "-c", "fit.yaml", "--model.vlm=export"]) == 0
    assert cli.main(["fit", "-c", "fit.yaml", "--model.vlm=export", "--ckpt_path=last", "--trainer.max_steps=4"]) == 0
    assert "max_steps has changed: the learning rate now falls until step 4; at step 2 it goes from" in capsys.readouterr().err
    # Lightning checks this when training starts.
    late = ["--trainer.val_check_interval=1000", "--trainer.check_val_every_n_epoch=1", "--trainer.limit_val_batches=1"]
    assert cli.main(["fit", "-c", "fit.yaml", "--model.vlm=export", *late]) == 2
    assert "error: trainer: `val_check_interval` (1000) must be less than" in capsys.readouterr().err


def test_a_pr2l_export_acts_as_it_did(saved):
    pytest.importorskip("stable_baselines3")
    check_actions("pr2l/export", "pr2l/export")


def test_a_pr2l_run_resumes_with_the_configuration_of_its_time(saved):
    pytest.importorskip("stable_baselines3")
    with pytest.warns(FutureWarning, match="vlm is now observation.vlm"):
        assert cli.main(["rl", "fit", "-c", "pr2l.yaml"]) == 0
    check_actions("pr2l/export", "pr2l/export")
    with pytest.warns(FutureWarning):
        assert cli.main(["rl", "fit", "-c", "pr2l.yaml", "--budget.steps=16"]) == 0
    assert torch.load("pr2l/checkpoint.pt", weights_only=True)["steps"] == 16
