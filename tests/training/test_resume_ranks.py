"""Two processes train like one, and go on exactly."""

import random

import pytest
import torch
from resuming import (
    STEPS,
    TWO,
    agree,
    assert_same,
    command,
    edit_config,
    fork,
    free_port,
    options,
    spawn,
    states,
    stream_questions,
)

from vla import cli
from vla.models.load import load_vlm
from vla.training.saving import newest

ADAPTED = ["--model.lora.rank=4", "--model.lora.dropout=0.1", "--model.learning_rate=0.01"]
SEEN = ["--contract.history=2", "--contract.modes=[think, act]", "--data.sources.robot.init_args.modes={think: 0.5, act: 0.5}"]
"""Images of the past, and modes."""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", list(TWO))
def test_two_ranks_agree_with_one(config, tmp_path, strategy):
    run, chosen = tmp_path / "run", options(0, 2)
    assert cli.main(command(config, *chosen)) == 0
    single = states(run)
    run.rename(tmp_path / "single")
    assert fork(command(config, *chosen, *TWO[strategy], f"--export={tmp_path / 'export'}"), 2) == [0, 0]
    double = states(run)
    assert agree(single, double)
    exported = load_vlm(tmp_path / "export")[0].state_dict()
    assert all(torch.equal(value, exported[name.removeprefix("model.")]) for name, value in double["state_dict"].items())
    # One process goes on with what two began, and two with what one began: the same batches, shared out anew.
    run.rename(tmp_path / "double")
    begun = tmp_path / "double/checkpoints/step=0000002.ckpt"
    assert cli.main(command(config, *chosen, f"--ckpt_path={begun}")) == 0
    assert agree(double, states(run)) and states(run)["VLAData"] == double["VLAData"]
    run.rename(tmp_path / "fewer")
    begun = tmp_path / "single/checkpoints/step=0000002.ckpt"
    assert fork(command(config, *chosen, *TWO[strategy], f"--ckpt_path={begun}"), 2) == [0, 0]
    assert agree(single, states(run)) and states(run)["VLAData"] == single["VLAData"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "workers", "accumulate", "kind", "more"),
    [
        ("ddp", 0, 3, "periodic", ["stream", *ADAPTED, *SEEN]),
        ("ddp", 0, 3, "SIGTERM", ["EMA", "--trainer.precision=bf16-mixed"]),
        ("ddp", 2, 1, "epoch", SEEN),
        ("ddp", 0, 1, "SIGUSR1", ["stream", "--trainer.precision=bf16-true"]),
        ("fsdp2", 0, 1, "periodic", ["stream", *ADAPTED, *SEEN]),
        ("fsdp2", 0, 3, "SIGTERM", ["stream", *SEEN]),
        ("fsdp2", 0, 3, "epoch", ADAPTED),
    ],
)
def test_two_ranks_go_on_exactly(config, data, tmp_path, record_property, strategy, workers, accumulate, kind, more):
    """Of which one is told, or killed."""
    if "stream" in more:
        edit_config(config, lambda body: stream_questions(body, data, tmp_path))
    if "EMA" in more:
        average = {"class_path": "vla.training.callbacks.EMA", "init_args": {"decay": 0.9}}
        edit_config(config, lambda body: body["trainer"]["callbacks"].append(average))
    run = tmp_path / "run"
    every = {"periodic": 2, "epoch": 4}.get(kind, 100)
    common = [*TWO[strategy], *(m for m in more if m.startswith("--"))]
    chosen = [*options(workers, accumulate, every), *common]
    assert fork(command(config, *options(0, accumulate, every), *common), 2) == [0, 0]
    straight = states(run)
    run.rename(tmp_path / "straight")
    rng = random.Random(f"{strategy} {accumulate} {kind}")
    saved = {"periodic": 2, "epoch": 4}.get(kind, 0)
    again = chosen
    if not saved:
        # The other rank learns of it.
        told = {"moment": "on_train_batch_start", "number": rng.randint(1, 4 * accumulate)}
        told |= {"sent": kind, "rank": rng.randrange(2)}
        record_property("told", f"{told['moment']} {told['number']} of rank {told['rank']}")
        assert fork(command(config, *chosen, dies=told), 2) == [{"SIGTERM": 143, "SIGUSR1": 138}[kind]] * 2
        saved = int(newest(run / "checkpoints").stem[5:])
        again = [*chosen, "--ckpt_path", "last"]
        number = rng.randint(1, (STEPS - saved) * accumulate)
    else:
        number = rng.randint(saved * accumulate + 1, min(saved + every, STEPS) * accumulate)
    killed = {"moment": "on_after_backward", "number": number, "rank": rng.randrange(2)}
    record_property("killed", f"{killed['moment']} {number} of rank {killed['rank']}")
    assert fork(command(config, *again, dies=killed), 2)[killed["rank"]] == -9
    assert newest(run / "checkpoints").stem == f"step={saved:07d}"
    assert fork(command(config, *chosen, "--ckpt_path", "last"), 2) == [0, 0]
    assert_same(straight, states(run))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "nodes", "strategy"),
    [
        ("lightning", 1, "ddp"),
        ("torchrun", 1, "ddp"),
        ("torchrun", 2, "ddp"),
        ("torchrun", 2, "fsdp2"),
        ("slurm", 1, "fsdp2"),
        ("slurm", 2, "ddp"),
    ],
)
def test_two_processes_of_a_launcher_train_like_one(config, tmp_path, launcher, nodes, strategy):
    """On one node, or on two that are both this machine; Lightning itself starts the second process of one node."""
    run, chosen = tmp_path / "run", options()
    assert cli.main(command(config, *chosen)) == 0
    single = states(run)
    run.rename(tmp_path / "single")
    each = 2 // nodes
    two = command(config, *chosen, *TWO[strategy][:-1], f"--trainer.devices={each}", f"--trainer.num_nodes={nodes}")
    port = free_port()
    if launcher == "lightning":
        runs = [spawn(["-m", "vla", *two], {})]
    elif launcher == "torchrun":
        line = ["-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={each}", "--master-addr=127.0.0.1"]
        line += [f"--master-port={port}"]
        runs = [spawn([*line, f"--node-rank={node}", "-m", "vla", *two], {}) for node in range(nodes)]
    else:
        common = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": str(each)}
        common |= {"SLURM_NODELIST": "localhost", "SLURM_NNODES": str(nodes), "MASTER_PORT": port}
        places = [{"SLURM_PROCID": str(r), "SLURM_LOCALID": str(r % each), "SLURM_NODEID": str(r // each)} for r in range(2)]
        runs = [spawn(["-m", "vla", *two], common | place) for place in places]
    assert [process.wait(400) for process in runs] == [0] * len(runs)
    assert agree(single, states(run))
