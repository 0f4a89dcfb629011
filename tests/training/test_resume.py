"""A run that was ended at any moment and resumed ends bit for bit like one that was not."""

import functools
import itertools
import os
import random
import shutil

import pytest
import torch
from resuming import EPOCH, STEPS, assert_same, command, edit_config, fork, options, states, stream_questions

from vla import cli
from vla.datasets.index import ShardIndex
from vla.datasets.shards import ShardWriter
from vla.training.saving import damage, newest

KINDS = ("periodic", "SIGTERM", "SIGUSR1", "epoch")
EVERY = {"periodic": 2, "epoch": EPOCH, "SIGTERM": 100, "SIGUSR1": 100}
CODES = {"SIGKILL": -9, "SIGTERM": 143, "SIGUSR1": 138}
PRODUCT = list(itertools.product((0, 2), (1, 3), KINDS))


@pytest.fixture(scope="module")
def several(recipe, data, tmp_path_factory):
    """Writes a recipe over three sources, one of them with an image that cannot be read; the weights are averaged."""
    spoilt = tmp_path_factory.mktemp("spoilt")
    index = ShardIndex(data / "robot")
    with ShardWriter(spoilt) as writer:
        for i, key in enumerate(index.keys):
            writer.write(key, {**index.read(i), **({"front.jpg": b"nothing"} if i == 3 else {})})
    shutil.copy(data / "robot/card.yaml", spoilt)

    def edit(body):
        sources = body["data"]["sources"]
        early = {"folder": str(spoilt), "weight": 0.3, "holdout": 0.25, "first_steps": 2, "first_times": 2}
        early |= {"augment": [{"brightness": 0.1}]}
        sources["early"] = {"class_path": "vla.datasets.robot.RobotSource", "init_args": early}
        sources["questions"]["init_args"] |= {"questions_per_image": 2, "augment": [{"contrast": 0.1}]}
        body["trainer"]["callbacks"].append({"class_path": "vla.training.callbacks.EMA", "init_args": {"decay": 0.9}})

    def write(folder):
        config = recipe(folder)
        edit_config(config, edit)
        return config

    return write


@pytest.fixture(scope="module")
def straight(several, tmp_path_factory):
    """What a run that nobody ends comes to, by accumulated batches and further options."""

    @functools.cache
    def run(accumulate, every, *more):
        folder = tmp_path_factory.mktemp("straight")
        # Without loader processes: their number changes nothing.
        assert cli.main(command(several(folder), *options(0, accumulate, every), *more)) == 0
        return states(folder / "run")

    return run


def moments(accumulate, since, until):
    """(hook, how-manieth call) between two optimizer steps, of a run that began at step 0."""
    batches = range(since * accumulate + 1, until * accumulate + 1)
    found = [(hook, n) for hook in ("on_train_batch_start", "on_after_backward", "on_train_batch_end") for n in batches]
    found += [("on_before_zero_grad", n) for n in range(since + 1, until + 1)]
    # Validation comes every third step.
    return found + [("on_validation_start", n) for n in (1, 2) if since < 3 * n < until]


def check(config, run, straight, workers, accumulate, kind, rng, note, *more):
    """Saved in one of the four ways, killed at a random moment after that and before any other save, resumed.

    `note` takes what is recorded of it (benchmarks/resume.py)."""
    chosen = [*options(workers, accumulate, EVERY[kind]), *more]
    saved = {"periodic": 2, "epoch": EPOCH}.get(kind, 0)
    if not saved:
        hook, number = rng.choice(moments(accumulate, 0, STEPS - 2))
        note("told", f"{hook} {number}")
        assert fork(command(config, *chosen, dies={"moment": hook, "number": number, "sent": kind})) == [CODES[kind]]
        saved = int(newest(run / "checkpoints").stem[5:])
        chosen_again = [*chosen, "--ckpt_path", "last"]
        hook, number = rng.choice(moments(accumulate, 0, STEPS - saved))
    else:
        # Up to the next save, which a kill may well fall into.
        chosen_again = chosen
        hook, number = rng.choice([*moments(accumulate, saved, min(saved + EVERY[kind], STEPS)), ("on_save_checkpoint", 2)])
    note("killed", f"{hook} {number}")
    assert fork(command(config, *chosen_again, dies={"moment": hook, "number": number})) == [CODES["SIGKILL"]]
    assert newest(run / "checkpoints").stem == f"step={saved:07d}"
    assert cli.main(command(config, *chosen, "--ckpt_path", "last")) == 0
    assert_same(straight(accumulate, EVERY[kind], *more), states(run))


@pytest.mark.parametrize(
    ("workers", "accumulate", "kind"),
    [(0, 3, "SIGTERM"), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((0, 1, "epoch"), (1, 1, "periodic")))],
)
def test_a_killed_run_goes_on_exactly(several, straight, tmp_path, record_property, workers, accumulate, kind):
    check(several(tmp_path), tmp_path / "run", straight, workers, accumulate, kind, random.Random(0), record_property)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "accumulate", "kind", "seed"), [(*case, seed) for case in PRODUCT for seed in ((1,) if case[0] else (1, 2, 3))]
)
def test_a_run_saved_in_any_way_and_killed_anywhere_goes_on_exactly(
    several, straight, tmp_path, record_property, workers, accumulate, kind, seed
):
    rng = random.Random(f"{workers} {accumulate} {kind} {seed}")
    check(several(tmp_path), tmp_path / "run", straight, workers, accumulate, kind, rng, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
@pytest.mark.parametrize("kind", ["periodic", "SIGTERM"])
def test_a_run_in_half_precision_goes_on_exactly(several, straight, tmp_path, record_property, precision, kind):
    rng = random.Random(f"{precision} {kind}")
    check(several(tmp_path), tmp_path / "run", straight, 0, 3, kind, rng, record_property, f"--trainer.precision={precision}")


@pytest.mark.parametrize(
    "part", [0.5, *(pytest.param(part, marks=pytest.mark.slow) for part in (0.0, 0.99, 1.0))], ids=lambda part: f"{part:.0%}"
)
def test_a_run_killed_while_it_writes_a_checkpoint_goes_on_from_the_one_before(
    several, straight, tmp_path, capfd, record_property, part
):
    config, folder = several(tmp_path), tmp_path / "run/checkpoints"
    record_property("killed", f"{part:.0%} of the second checkpoint written")
    # last.ckpt is a link: a write is a checkpoint.
    assert fork(command(config, *options(0, 3), writing={"number": 2, "part": part})) == [-9]
    names = ["last.ckpt", "step=0000002.ckpt", "step=0000004.ckpt.tmp"]
    assert sorted(p.name for p in folder.iterdir()) == names
    capfd.readouterr()
    assert cli.main(command(config, *options(0, 3), "--ckpt_path", "last")) == 0
    shown = capfd.readouterr()
    assert "step=0000004.ckpt.tmp is unfinished" in shown.err and "step=0000002.ckpt" in shown.out
    assert not list(folder.glob("*.tmp"))
    assert_same(straight(3, 2), states(tmp_path / "run"))


def test_the_newest_whole_checkpoint_is_found(trained, tmp_path, capsys):
    folder = tmp_path / "run/checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["last.ckpt", "step=0000002.ckpt", "step=0000004.ckpt"]
    assert newest(folder) == (folder / "step=0000004.ckpt").resolve()
    data = (folder / "step=0000004.ckpt").read_bytes()
    for broken in (data[: len(data) // 2], data[:5000] + b"\0" * 100 + data[5100:]):
        (folder / "step=0000004.ckpt").write_bytes(broken)
        assert damage(folder / "step=0000004.ckpt")
        capsys.readouterr()
        assert newest(folder) == (folder / "step=0000002.ckpt").resolve()
        assert "step=0000004.ckpt is damaged" in capsys.readouterr().err
    code = cli.main(["fit", "-c", str(trained), "--ckpt_path", str(folder / "step=0000004.ckpt")])
    assert code == 2 and "is damaged" in capsys.readouterr().err
    assert newest(tmp_path) is None


def test_a_run_goes_on_with_the_statistic_that_it_was_begun_with(trained, tmp_path, capsys):
    """Of before it could be said: the mode; another one asked for is refused."""
    path = tmp_path / "run/checkpoints/step=0000002.ckpt"
    content = torch.load(path, weights_only=True)
    assert content["contract"].pop("decode") == "median"
    torch.save({**content, "contract": {**content["contract"], "schema": 2}}, path)
    assert cli.main(["fit", "-c", str(trained), "--ckpt_path", str(path), "--contract.decode=median"]) == 2
    assert "decode: 'mode' against 'median'" in capsys.readouterr().err
    assert cli.main(["fit", "-c", str(trained), "--ckpt_path", str(path)]) == 0
    assert torch.load(tmp_path / "run/checkpoints/step=0000004.ckpt", weights_only=True)["contract"]["decode"] == "mode"


def test_a_slurm_job_that_is_told_to_end_goes_back_into_the_queue(several, straight, tmp_path, monkeypatch, record_property):
    tool = tmp_path / "bin/scontrol"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    # A job id alone: the rest of SLURM's environment would make Lightning look for its nodes.
    monkeypatch.setenv("SLURM_JOB_ID", "4_7")
    check(several(tmp_path), tmp_path / "run", straight, 0, 1, "SIGUSR1", random.Random(0), record_property)
    assert (tmp_path / "asked").read_text() == "requeue 4_7\n"


@pytest.mark.parametrize("lost", [False, True])
def test_a_run_on_a_stream_goes_on_exactly(config, data, tmp_path, lost):
    """Also where the local folder with what was fetched and counted is gone."""
    edit_config(config, lambda body: stream_questions(body, data, tmp_path))
    assert cli.main(command(config, *options())) == 0
    straight = states(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "straight")
    shutil.rmtree(tmp_path / "fetched")
    assert fork(command(config, *options(), dies={"moment": "on_after_backward", "number": 4})) == [-9]
    if lost:
        shutil.rmtree(tmp_path / "fetched")
    assert cli.main(command(config, *options(), "--ckpt_path", "last")) == 0
    assert_same(straight, states(tmp_path / "run"))


def test_saves_fall_on_every_nth_and_the_last_step(config, tmp_path):
    """Also on the last batch of an epoch, and where no folder is named."""
    edit_config(config, lambda body: body["trainer"]["callbacks"][0]["init_args"].pop("dirpath"))
    more = ["--trainer.max_steps=7", "--data.epoch_steps=4", "--trainer.val_check_interval=3"]
    assert cli.main(command(config, *more)) == 0
    folder = tmp_path / "run/checkpoints"
    assert [p.name for p in sorted(folder.glob("step*"))] == [f"step={n:07d}.ckpt" for n in (2, 4, 6, 7)]
    straight = states(tmp_path / "run", 7)
    for n in (6, 7):
        (folder / f"step={n:07d}.ckpt").unlink()
    assert cli.main(command(config, *more, "--ckpt_path", "last")) == 0
    assert_same(straight, states(tmp_path / "run", 7))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("--data.epoch_steps=5", "epoch_steps: 4, now 5"),
        ("--data.sources.robot.init_args.weight=0.7", "sources.robot.weight: 0.5, now 0.7"),
        ("--data.robot_share=0.7", "robot_share: None, now 0.7"),
        ("--trainer.accumulate_grad_batches=2", "accumulate_grad_batches: 1, now 2"),
        ("--data.seed=1", "seed 0, now it is 1"),
        ("--data.batch_size=6", "batch_size 4, now it is 6"),
        ("--model.freeze=[vision]", "freeze: [], now ['vision']"),
        ("--model.learning_rate=0.1", "learning_rate: 0.001, now 0.1"),
        ("--contract.chunk=3", "chunk: 2 against 3"),
    ],
)
def test_another_run_is_not_gone_on_with(stopped, change, match, capsys):
    config, run = stopped
    before = (run / "contract.json").read_text()
    code = cli.main(command(config, "--trainer.max_steps=4", change, "--ckpt_path", "last"))
    assert code == 2 and match in capsys.readouterr().err
    assert (run / "contract.json").read_text() == before


@pytest.fixture(scope="module")
def stopped(recipe, tmp_path_factory):
    """A run of two steps and its configuration; tests must not change it."""
    folder = tmp_path_factory.mktemp("stopped")
    config = recipe(folder)
    assert cli.main(command(config, "--trainer.max_steps=2")) == 0
    return config, folder / "run"


def test_validating_the_last_of_no_checkpoints_is_refused(config, capsys):
    assert cli.main(["validate", "-c", str(config), "--ckpt_path", "last"]) == 2
    assert "no checkpoint" in capsys.readouterr().err


def test_a_sample_that_cannot_be_made_is_named_from_a_loader_process_too(config, data, tmp_path, capsys):
    index = ShardIndex(data / "questions")
    with ShardWriter(tmp_path / "bad") as writer:
        for i, key in enumerate(index.keys):
            writer.write(key, {**index.read(i), "front.jpg": b"no picture"})
    shutil.copy(data / "questions/card.yaml", tmp_path / "bad")
    folder = f"--data.sources.questions.init_args.folder={tmp_path / 'bad'}"
    assert cli.main(command(config, folder, "--data.workers=1")) == 2
    shown = capsys.readouterr().err
    assert ".front.jpg: the image cannot be decoded" in shown and "Traceback" not in shown
