"""Which checkpoint of a folder is the newest, and what a run that begins does with those of another."""

import contextlib
import os
import resource

import pytest
import torch
import yaml

from vla import cli
from vla.errors import UserError
from vla.training.saving import Checkpoints, WholeFiles, claimed, newest, put_aside, steps_in


def write(path, step, age):
    """A file of the form of a checkpoint, so many seconds old."""
    torch.save({"global_step": step, "state_dict": {"weight": torch.zeros(1000)}}, path)
    os.utime(path, (10**9 - age, 10**9 - age))
    return path


def test_the_furthest_is_the_newest_whatever_the_files_times(tmp_path, capsys):
    early, late = write(tmp_path / "step=0000002.ckpt", 2, 0), write(tmp_path / "step=0000010.ckpt", 10, 50)
    assert newest(tmp_path) == late
    # Their names need not say it.
    named = write(tmp_path / "renamed.ckpt", 12, 90)
    assert steps_in(named) == 12 and newest(tmp_path) == named
    # Of one step, the latest.
    other = write(tmp_path / "step=0000012 rollout success 0.300.ckpt", 12, 10)
    assert newest(tmp_path) == other
    for path in (named, other):
        path.write_bytes(path.read_bytes()[:500])
    (tmp_path / "step=0000014.ckpt.tmp").write_bytes(b"half")
    capsys.readouterr()
    assert newest(tmp_path) == late
    shown = capsys.readouterr().err
    assert all(f"{path} is damaged" in shown for path in (named, other)) and "step=0000014.ckpt.tmp is unfinished" in shown
    late.unlink()
    assert newest(tmp_path) == early


@contextlib.contextmanager
def little_space(size):
    """No file may grow beyond `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [1000, 200_000])
def test_a_full_disk_is_named_and_leaves_nothing_behind(tmp_path, size):
    with little_space(size), pytest.raises(UserError, match="cannot be written: File too large") as error:
        WholeFiles().save_checkpoint({"weight": torch.zeros(100_000)}, tmp_path / "step=0000002.ckpt")
    assert "step=0000002.ckpt" in error.value.where and not list(tmp_path.iterdir())


def test_other_errors_of_saving_stay_what_they_are(tmp_path):
    with pytest.raises(Exception, match="pickle") as error:
        WholeFiles().save_checkpoint({"weight": lambda: 0}, tmp_path / "a.ckpt")
    assert not isinstance(error.value, UserError)


def test_checkpoints_beyond_where_a_run_begins_are_put_aside(trained, tmp_path, capsys):
    folder = tmp_path / "run/checkpoints"
    (folder / "step=0000009.ckpt.tmp").write_bytes(b"half")
    # Anew, and not as far: `last` must not go on with what the first run had.
    body = yaml.safe_load(trained.read_text())
    trained.write_text(yaml.safe_dump({**body, "seed_everything": 1}))
    assert cli.main(["fit", "-c", str(trained), "--trainer.max_steps=2"]) == 0
    assert sorted(p.name for p in folder.iterdir()) == ["before-1", "last.ckpt", "step=0000002.ckpt"]
    assert sorted(p.name for p in (folder / "before-1").iterdir()) == ["step=0000002.ckpt", "step=0000004.ckpt"]
    assert newest(folder) == (folder / "step=0000002.ckpt").resolve()
    assert f"2 checkpoints of another run are now in {folder}/before-1" in capsys.readouterr().err
    # Those that a resumed run comes from stay.
    assert cli.main(["fit", "-c", str(trained), "--ckpt_path", "last"]) == 0
    assert sorted(p.name for p in folder.glob("step*")) == ["step=0000002.ckpt", "step=0000004.ckpt"]


def test_one_checkpoint_is_put_aside_in_the_singular(tmp_path, capsys):
    write(tmp_path / "step=0000004.ckpt", 4, 0)
    put_aside(tmp_path, 2)
    assert capsys.readouterr().err == f"1 checkpoint of another run is now in {tmp_path}/before-1\n"


def test_two_runs_never_write_into_one_folder(trained, tmp_path, capsys):
    run = tmp_path / "run"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with claimed(run / "checkpoints"):
        assert cli.main(["fit", "-c", str(trained)]) == 2
    assert "another run is training into this folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    # A callback for the newest and one for the best may share it.
    best = ["--trainer.callbacks+=vla.training.saving.Checkpoints", "--trainer.callbacks.monitor=train/loss"]
    assert cli.main(["fit", "-c", str(trained), *best, f"--trainer.callbacks.dirpath={run}/checkpoints"]) == 0


@pytest.mark.parametrize("wrong", ["Missing", "Unexpected"])
def test_a_checkpoint_with_other_weights_is_refused(trained, tmp_path, wrong):
    path = tmp_path / "run/checkpoints/step=0000004.ckpt"
    saved = torch.load(path, weights_only=True)
    weights = saved["state_dict"]
    if wrong == "Missing":
        weights.pop(next(iter(weights)))
    else:
        weights["model.other"] = torch.zeros(1)
    torch.save(saved, path)
    with pytest.raises(RuntimeError, match=wrong):
        cli.main(["fit", "-c", str(trained), "--ckpt_path", "last"])


def test_an_old_name_of_a_logged_value_is_replaced_and_said(tmp_path, capsys):
    checkpoints = Checkpoints(str(tmp_path), monitor="val/action_l1", mode="min")
    assert checkpoints.monitor == "val/teacher_forced/action_l1"
    assert capsys.readouterr().err == "note: val/action_l1 is now called val/teacher_forced/action_l1\n"
