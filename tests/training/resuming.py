"""What tests of resuming share: runs in processes that are ended, and everything that a checkpoint holds."""

import multiprocessing
import os
import socket
import subprocess
import sys
import time
from multiprocessing import connection
from pathlib import Path

import psutil
import torch
import yaml

from vla import cli
from vla.datasets.index import ShardIndex
from vla.datasets.shards import ShardWriter

STEPS, EPOCH = 6, 4
"""Optimizer steps of a run, and of an epoch."""
FSDP2 = [
    "--trainer.strategy=lightning.pytorch.strategies.ModelParallelStrategy",
    "--trainer.strategy.data_parallel_size=2",
    "--trainer.strategy.tensor_parallel_size=1",
    "--trainer.strategy.save_distributed_checkpoint=false",
]
TWO = {"ddp": ["--trainer.strategy=ddp", "--trainer.devices=2"], "fsdp2": [*FSDP2, "--trainer.devices=2"]}
"""Options of two ranks."""


def options(workers=0, accumulate=1, every=2):
    return [
        f"--trainer.max_steps={STEPS}",
        f"--trainer.accumulate_grad_batches={accumulate}",
        f"--data.workers={workers}",
        f"--data.epoch_steps={EPOCH * accumulate}",
        f"--trainer.val_check_interval={3 * accumulate}",
        f"--trainer.callbacks.every={every}",
    ]


def edit_config(config, edit):
    """Edits the configuration's content."""
    body = yaml.safe_load(config.read_text())
    edit(body)
    config.write_text(yaml.safe_dump(body))


def command(config, *more, dies=None, writing=None):
    """Arguments of a `vla fit`; `dies` and `writing` are arguments of DieAt and DieWriting."""
    every = next((m.partition("=")[2] for m in more if m.startswith("--trainer.callbacks.every=")), None)
    more = [m for m in more if not m.startswith("--trainer.callbacks.every=")]
    body = yaml.safe_load(config.read_text())
    callbacks = body["trainer"]["callbacks"]
    for callback in callbacks:
        if callback["class_path"].endswith("Checkpoints") and every:
            callback["init_args"]["every"] = int(every)
    if dies:
        callbacks.append({"class_path": "dying.DieAt", "init_args": dies})
    if writing:
        callbacks.append({"class_path": "dying.DieWriting", "init_args": writing})
    chosen = config.with_name("chosen.yaml")
    chosen.write_text(yaml.safe_dump(body))
    return ["fit", "-c", str(chosen), *more]


# A clean process that has imported everything already: what other tests have done to this one does not matter.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["vla.commands.training", "vla.training.cli", "vla.models.load", "vla.sim.collect"])


def _run(arguments, environment, folder):
    os.chdir(folder)
    os.environ.update(environment)
    sys.exit(cli.main(arguments))


def fork(arguments, ranks=1):
    """Exit codes of a command, one per rank; where one dies the others are ended, as launchers do it."""
    mark = {"VLA_TEST_RUN": str(time.time_ns())}
    places = [{}]
    if ranks > 1:
        # As torchrun says it.
        mark |= {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0"}
        mark |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        places = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
    processes = [SERVER.Process(target=_run, args=(arguments, {**os.environ, **mark, **place}, os.getcwd())) for place in places]
    for process in processes:
        process.start()
    left = {process.sentinel: process for process in processes}
    while left:
        for sentinel in connection.wait(left):
            process = left.pop(sentinel)
            process.join()
            if process.exitcode < 0 or process.exitcode == 1:
                for other in left.values():
                    other.kill()
    # Their loader processes end with them, even where they could not tell them to.
    until = time.monotonic() + 120
    while found := [p for p in psutil.process_iter(["environ"]) if mark.items() <= (p.info["environ"] or {}).items()]:
        assert time.monotonic() < until, found
        time.sleep(0.1)
    return [process.exitcode for process in processes]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def spawn(arguments, environment):
    """The same in a new process."""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(cli.__file__).parents[1])])
    everything = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen([sys.executable, *arguments], env=everything)


def states(run, step=STEPS):
    """All that a checkpoint holds; not which files were there before it."""
    saved = torch.load(run / f"checkpoints/step={step:07d}.ckpt", weights_only=True)
    for state in saved["callbacks"].values():
        for name in ("best_model_path", "best_k_models", "kth_best_model_path", "kth_value", "last_model_path", "dirpath"):
            state.pop(name, None)
    return saved


def agree(one, other):
    """Whether two runs that add in different orders have the same weights."""
    return all(torch.allclose(value, other["state_dict"][name], atol=2e-4) for name, value in one["state_dict"].items())


def assert_same(one, other, where=""):
    # FSDP2 makes lists of tuples.
    assert type(one) is type(other) or {type(one), type(other)} == {list, tuple}, where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}.{i}")
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, f"{where}: {one} and {other}"


def stream_questions(body, data, folder):
    """The configuration's questions from shards that are streamed."""
    index = ShardIndex(data / "questions")
    with ShardWriter(folder / "web", per_shard=3) as writer:
        for i, key in enumerate(index.keys):
            writer.write(key, index.read(i))
    body["data"]["sources"]["questions"] = {
        "class_path": "vla.datasets.stream.QuestionStream",
        "init_args": {
            "urls": f"pipe:cat {folder}/web/shard-{{000000..000003}}.tar",
            "images": {"front": "front.jpg"},
            "fetched": str(folder / "fetched"),
            "together": 2,
            "weight": 0.5,
        },
    }
