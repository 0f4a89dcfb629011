"""A run that was ended at any moment and resumed ends bit for bit like one that was not."""

import os
import random
import shutil
import subprocess
import sys
import time
from multiprocessing import resource_tracker
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from vla import cli
from vla.datasets.index import ShardIndex
from vla.datasets.shards import ShardWriter
from vla.models.load import load_vlm
from vla.training.saving import damage, newest

MOMENTS = ("on_train_batch_start", "on_after_backward", "on_before_zero_grad", "on_save_checkpoint", "on_validation_start")


def command(config, *more, dies=None):
    """Arguments of a `vla fit`; `dies` is (moment, number, signal)."""
    if dies:
        moment, number, sent = dies
        body = yaml.safe_load(config.read_text())
        body["trainer"]["callbacks"].append(
            {"class_path": "dying.DieAt", "init_args": {"moment": moment, "number": number, "sent": sent}}
        )
        config = config.with_name("dying.yaml")
        config.write_text(yaml.safe_dump(body))
    return ["fit", "-c", str(config), *more]


def fork(arguments):
    """Exit code of a command in a process of its own, which has imported everything already."""
    os.environ["VLA_TEST_RUN"] = mark = str(time.time_ns())
    pid = os.fork()
    if not pid:
        code = 1
        try:
            sys.path.insert(0, str(Path(__file__).parent))
            # What keeps track of the parent's shared memory is the parent's.
            resource_tracker._resource_tracker.__init__()
            code = cli.main(arguments)
        except SystemExit as end:
            code = end.code
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    # Its loader processes end with it, even where it could not tell them to.
    until = time.monotonic() + 10
    while left := [p for p in psutil.process_iter(["environ"]) if (p.info["environ"] or {}).get("VLA_TEST_RUN") == mark]:
        assert time.monotonic() < until, left
        time.sleep(0.1)
    return os.waitstatus_to_exitcode(status)


def spawn(arguments, devices):
    """The same in a new process, which starts one for each further rank."""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(cli.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "vla", *arguments, "--trainer.devices", str(devices)]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=400)


def states(tmp_path, step=6):
    """Everything of a checkpoint that decides how a run goes on."""
    saved = torch.load(tmp_path / f"run/checkpoints/step={step:07d}.ckpt", weights_only=True)
    return {name: saved[name] for name in ("state_dict", "optimizer_states", "lr_schedulers", "VLAData", "global_step")}


def assert_same(one, other, where=""):
    # FSDP2 makes lists of tuples.
    assert type(one) is type(other) or {type(one), type(other)} == {list, tuple}, where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}.{i}")
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, where


def options(workers, accumulate):
    return [
        "--trainer.max_steps=6",
        f"--trainer.accumulate_grad_batches={accumulate}",
        f"--data.workers={workers}",
        f"--data.epoch_steps={4 * accumulate}",
        f"--trainer.val_check_interval={3 * accumulate}",
    ]


def check(config, tmp_path, workers, accumulate, moment, number, sent="SIGKILL"):
    # Without loader processes: their number changes nothing.
    assert cli.main(command(config, *options(0, accumulate))) == 0
    straight = states(tmp_path)
    (tmp_path / "run").rename(tmp_path / "straight")
    chosen = options(workers, accumulate)
    died = fork(command(config, *chosen, dies=(moment, number, sent)))
    # Told in the validation after the last step, a run is through.
    through = sent != "SIGKILL" and (moment, number) == ("on_validation_start", 2)
    assert died == (0 if through else {"SIGKILL": -9, "SIGTERM": 143, "SIGUSR1": 138}[sent])
    assert cli.main(command(config, *chosen, "--ckpt_path", "last")) == 0
    assert_same(straight, states(tmp_path))


@pytest.mark.parametrize(
    ("workers", "accumulate", "moment", "number", "sent"),
    [
        (0, 2, "on_after_backward", 7, "SIGKILL"),
        (2, 1, "on_save_checkpoint", 2, "SIGKILL"),
        (0, 3, "on_train_batch_start", 8, "SIGTERM"),
    ],
)
def test_a_killed_run_goes_on_exactly(config, tmp_path, workers, accumulate, moment, number, sent):
    check(config, tmp_path, workers, accumulate, moment, number, sent)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_run_killed_anywhere_goes_on_exactly(config, tmp_path, seed):
    rng = random.Random(seed)
    workers, accumulate, moment = (0, 2)[seed % 2], rng.choice((1, 2, 3)), rng.choice(MOMENTS)
    most = {"on_save_checkpoint": 3, "on_validation_start": 2, "on_before_zero_grad": 6}.get(moment, 6 * accumulate)
    check(
        config,
        tmp_path,
        workers,
        accumulate,
        moment,
        rng.randint(1, most),
        rng.choice(("SIGKILL", "SIGKILL", "SIGTERM", "SIGUSR1")),
    )


def test_the_newest_whole_checkpoint_is_found(config, tmp_path, capsys):
    assert cli.main(["fit", "-c", str(config)]) == 0
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
    code = cli.main(["fit", "-c", str(config), "--ckpt_path", str(folder / "step=0000004.ckpt")])
    assert code == 2 and "is damaged" in capsys.readouterr().err
    assert newest(tmp_path) is None


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_go_on_exactly_and_agree_with_one(config, tmp_path, strategy):
    chosen = options(0, 2)
    assert cli.main(command(config, *chosen)) == 0
    single = states(tmp_path)
    (tmp_path / "run").rename(tmp_path / "single")
    if strategy == "ddp":
        two = [*chosen, "--trainer.strategy=ddp"]
    else:
        kind = "lightning.pytorch.strategies.ModelParallelStrategy"
        two = [*chosen, f"--trainer.strategy={kind}", "--trainer.strategy.data_parallel_size=2"]
        two += ["--trainer.strategy.tensor_parallel_size=1", "--trainer.strategy.save_distributed_checkpoint=false"]
    done = spawn(command(config, *two, f"--export={tmp_path / 'export'}"), 2)
    assert done.returncode == 0, done.stderr[-3000:]
    straight = states(tmp_path)
    for name, value in single["state_dict"].items():
        assert torch.allclose(value, straight["state_dict"][name], atol=2e-4), name
    exported = load_vlm(tmp_path / "export")[0].state_dict()
    assert all(torch.equal(value, exported[name.removeprefix("model.")]) for name, value in straight["state_dict"].items())
    (tmp_path / "run").rename(tmp_path / "straight")
    died = spawn(command(config, *two, dies=("on_after_backward", 9, "SIGKILL")), 2)
    assert died.returncode != 0
    again = spawn(command(config, *two, "--ckpt_path=last"), 2)
    assert again.returncode == 0 and "going on from" in again.stdout, again.stderr[-3000:]
    assert_same(straight, states(tmp_path))
    # One process goes on with what two began: the same batches, shared out anew.
    begun = tmp_path / "straight/checkpoints/step=0000002.ckpt"
    (tmp_path / "run").rename(tmp_path / "again")
    assert cli.main(command(config, *chosen, f"--ckpt_path={begun}")) == 0
    fewer = states(tmp_path)
    assert fewer["VLAData"] == straight["VLAData"]
    assert all(torch.allclose(value, fewer["state_dict"][name], atol=2e-4) for name, value in straight["state_dict"].items())


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "slurm"])
def test_two_processes_of_a_launcher_train_like_one(config, tmp_path, launcher):
    chosen = options(0, 1)
    assert cli.main(command(config, *chosen)) == 0
    single = states(tmp_path)
    (tmp_path / "run").rename(tmp_path / "single")
    two = ["fit", "-c", str(config), *chosen, "--trainer.strategy=ddp", "--trainer.devices=2"]
    port = str(random.randint(20000, 40000))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    if launcher == "torchrun":
        line = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node=2",
            f"--master-port={port}",
            "-m",
            "vla",
            *two,
        ]
        runs = [subprocess.Popen(line, env=environment)]
    else:
        common = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
        common |= {"SLURM_NODELIST": "localhost", "SLURM_NNODES": "1", "SLURM_NODEID": "0", "MASTER_PORT": port}
        runs = [
            subprocess.Popen(
                [sys.executable, "-m", "vla", *two],
                env={**environment, **common, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            )
            for rank in range(2)
        ]
    assert [run.wait(400) for run in runs] == [0] * len(runs)
    for name, value in states(tmp_path)["state_dict"].items():
        assert torch.allclose(value, single["state_dict"][name], atol=2e-4), name


def test_a_slurm_job_that_is_told_to_end_goes_back_into_the_queue(config, tmp_path, monkeypatch):
    tool = tmp_path / "bin/scontrol"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    # A job id alone: the rest of SLURM's environment would make Lightning look for its nodes.
    monkeypatch.setenv("SLURM_JOB_ID", "4_7")
    check(config, tmp_path, 0, 1, "on_train_batch_start", 4, "SIGUSR1")
    assert (tmp_path / "asked").read_text() == "requeue 4_7\n"


@pytest.mark.parametrize("lost", [False, True])
def test_a_run_on_a_stream_goes_on_exactly(config, data, tmp_path, lost):
    """Also where the local folder with what was fetched and counted is gone."""
    index = ShardIndex(data / "questions")
    with ShardWriter(tmp_path / "web", per_shard=3) as writer:
        for i, key in enumerate(index.keys):
            writer.write(key, index.read(i))
    body = yaml.safe_load(config.read_text())
    body["data"]["sources"]["questions"] = {
        "class_path": "vla.datasets.stream.QuestionStream",
        "init_args": {
            "urls": f"pipe:cat {tmp_path}/web/shard-{{000000..000003}}.tar",
            "pictures": {"front": "front.jpg"},
            "fetched": str(tmp_path / "fetched"),
            "together": 2,
            "weight": 0.5,
        },
    }
    config.write_text(yaml.safe_dump(body))
    chosen = options(0, 1)
    assert cli.main(command(config, *chosen)) == 0
    straight = states(tmp_path)
    (tmp_path / "run").rename(tmp_path / "straight")
    shutil.rmtree(tmp_path / "fetched")
    assert fork(command(config, *chosen, dies=("on_after_backward", 4, "SIGKILL"))) == -9
    if lost:
        shutil.rmtree(tmp_path / "fetched")
    assert cli.main(command(config, *chosen, "--ckpt_path", "last")) == 0
    assert_same(straight, states(tmp_path))


def test_saves_fall_on_every_nth_and_the_last_step(config, tmp_path):
    """Also on the last batch of an epoch, and where no folder is named."""
    body = yaml.safe_load(config.read_text())
    (saving,) = (c for c in body["trainer"]["callbacks"] if c["class_path"].endswith("Checkpoints"))
    del saving["init_args"]["dirpath"]
    config.write_text(yaml.safe_dump(body))
    more = ["--trainer.max_steps=7", "--data.epoch_steps=4", "--trainer.val_check_interval=3"]
    assert cli.main(command(config, *more)) == 0
    folder = tmp_path / "run/checkpoints"
    assert [p.name for p in sorted(folder.glob("step*"))] == [f"step={n:07d}.ckpt" for n in (2, 4, 6, 7)]
    straight = states(tmp_path, 7)
    for n in (6, 7):
        (folder / f"step={n:07d}.ckpt").unlink()
    assert cli.main(command(config, *more, "--ckpt_path", "last")) == 0
    assert_same(straight, states(tmp_path, 7))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("--data.epoch_steps=5", "epoch_steps: 4, now 5"),
        ("--data.sources.robot.init_args.weight=0.7", "sources.robot.weight: 0.5, now 0.7"),
        ("--data.robot_share=0.7", "robot_share: None, now 0.7"),
        ("--trainer.accumulate_grad_batches=2", "accumulate_grad_batches: 1, now 2"),
        ("--data.seed=1", "seed 0, now it is 1"),
        ("--model.freeze=[vision]", "learned with"),
        ("--contract.chunk=3", "chunk: 2 against 3"),
    ],
)
def test_another_run_is_not_gone_on_with(stopped, change, match, capsys):
    config, run = stopped
    before = (run / "contract.json").read_text()
    code = cli.main(command(config, "--trainer.max_steps=4", change, "--ckpt_path", "last"))
    assert code == 2 and match in capsys.readouterr().err
    assert (run / "contract.json").read_text() == before


@pytest.fixture
def stopped(config, tmp_path):
    """A run of two steps and its configuration."""
    assert cli.main(command(config, "--trainer.max_steps=2")) == 0
    return config, tmp_path / "run"


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
    assert ".front.jpg: the picture cannot be decoded" in shown and "Traceback" not in shown
