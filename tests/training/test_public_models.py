"""Public models in training, by toys of the real classes: they learn a few demonstrations, and a resumed run goes on exactly."""

import csv

import numpy as np
import published
import published_openvla
import pytest
import torch
import yaml
from resuming import TWO, agree, assert_same, command, fork, options, states

from vla import cli
from vla.contract import Camera, Embodiment
from vla.datasets.card import DatasetCard
from vla.datasets.shards import ShardWriter
from vla.models.load import load_vlm
from vla.space import Space

pytest.importorskip("num2words")
pytestmark = pytest.mark.slow
STATISTICS = {"mean": 0.0, "std": 0.6, "min": -1.0, "max": 1.0, "q01": -0.98, "q99": 0.98}
SPACE = Space(
    names=("x", "y", "z"), units=("m",) * 3, low=(-1.0,) * 3, high=(1.0,) * 3,
    statistics={name: (value,) * 3 for name, value in STATISTICS.items()},
)  # fmt: skip
ROBOT = Embodiment(cameras=(Camera("front", 64, 64),), state=SPACE, action=SPACE)
OPENVLA = yaml.safe_load("{codec: openvla, tokens: overwrite, terminate: false, normalise: lower, decode: mode, binary: false}")


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    """Eight demonstrations of six steps, and one that is held out; the image and the state tell the steps apart."""
    folder = tmp_path_factory.mktemp("demonstrations")
    rng = np.random.default_rng(0)
    with ShardWriter(folder) as writer:
        for episode in range(9):
            for step in range(6):
                state, action = rng.uniform(-1, 1, (2, 3)).astype(np.float32)
                image = np.kron(rng.integers(0, 256, (4, 4, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
                record = {"episode": episode, "step": step, "length": 6, "instruction": "lift the red cube"}
                record |= {"terminate": int(step == 5), "embodiment": "r", "target": ""}
                members = {"front.jpg": image, "action.npy": action, "state.npy": state, "json": record}
                writer.write(f"e{episode:06d}_s{step:04d}", members)
    DatasetCard("eight", "robot", "r", ROBOT).save(folder)
    return folder


@pytest.fixture(scope="module", params=[*published.FAMILIES, "openvla"])
def toy(request, tmp_path_factory):
    """Name and folder of a toy."""
    folder = tmp_path_factory.mktemp("toys") / request.param
    if request.param == "openvla":
        published_openvla.save(folder, published_openvla.parts())
    else:
        for part in published.make(request.param):
            part.save_pretrained(folder)
    return request.param, folder


@pytest.fixture
def config(toy, recipe, demonstrations, tmp_path):
    """The small recipe for the toy and the demonstrations."""
    name, folder = toy
    path = recipe(tmp_path)
    body = yaml.safe_load(path.read_text())
    del body["data"]["sources"]["questions"]
    body["data"]["sources"]["robot"]["init_args"] = {"folder": str(demonstrations), "holdout": 0.1}
    body["contract"] = {"chunk": 1, "execute": 1, "plan": [], **(OPENVLA if name == "openvla" else {})}
    body["model"] |= {"vlm": str(folder)}
    path.write_text(yaml.safe_dump(body))
    return path


def test_it_learns_eight_demonstrations(config, tmp_path, record_property):
    """The share of right tokens, each predicted after the true ones, over the batches of the last ten of 200 steps."""
    chosen = ["--trainer.max_steps=200", "--data.epoch_steps=200", "--trainer.val_check_interval=200", "--data.batch_size=16"]
    chosen += ["--model.learning_rate=3e-3", "--model.warmup=20", "--model.weight_decay=0", "--trainer.callbacks.every=200"]
    assert cli.main(command(config, *chosen, "--export=")) == 0
    with open(tmp_path / "run/logs/metrics.csv") as file:
        accuracy = [float(value) for row in csv.DictReader(file) if (value := row["train/action_token_accuracy"])]
    record_property("token_accuracy", value := float(np.mean(accuracy[-10:])))
    print([round(float(np.mean(accuracy[i : i + 20])), 2) for i in range(0, 200, 20)])
    assert len(accuracy) == 200 and value >= 0.95


def test_a_killed_run_goes_on_exactly(config, tmp_path):
    """Killed in its fourth step, after a checkpoint at the second."""
    straight = tmp_path / "straight"
    chosen = [*options(), "--export="]
    assert cli.main(command(config, *chosen)) == 0
    (tmp_path / "run").rename(straight)
    assert fork(command(config, *chosen, dies={"moment": "on_after_backward", "number": 4})) == [-9]
    assert cli.main(command(config, *chosen, "--ckpt_path=last")) == 0
    assert_same(states(straight), states(tmp_path / "run"))


@pytest.mark.parametrize("toy", ["smolvlm", "qwen2.5-vl", "paligemma"], indirect=True)
def test_two_ranks_of_fsdp2_agree_with_one(config, tmp_path):
    chosen = [*options(), "--trainer.max_steps=2", "--trainer.val_check_interval=2"]
    assert cli.main(command(config, *chosen, "--export=")) == 0
    single = states(tmp_path / "run", 2)
    (tmp_path / "run").rename(tmp_path / "single")
    assert fork(command(config, *chosen, *TWO["fsdp2"], f"--export={tmp_path / 'export'}"), 2) == [0, 0]
    double = states(tmp_path / "run", 2)
    assert agree(single, double)
    exported = load_vlm(tmp_path / "export")[0].state_dict()
    assert all(torch.equal(exported[name.removeprefix("model.")], value) for name, value in double["state_dict"].items())


@pytest.mark.parametrize("toy", ["smolvlm", "qwen2.5-vl"], indirect=True)
def test_compiled_blocks_learn_the_same(config, tmp_path):
    chosen = [*options(), "--trainer.max_steps=2", "--trainer.val_check_interval=2", "--export="]
    weights = []
    for more in ([], ["--model.compile=true"]):
        assert cli.main(command(config, *chosen, *more)) == 0
        weights.append(states(tmp_path / "run", 2))
        (tmp_path / "run").rename(tmp_path / f"run{len(weights)}")
    assert agree(*weights)
