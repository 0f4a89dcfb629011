"""Training: the sequence that is scored, the contract in the checkpoint, resume, mistakes."""

import csv
import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch
import yaml

from vla import cli
from vla.checkpoint import load_checkpoint
from vla.contract import PolicyContract
from vla.errors import UserError
from vla.observation import Observation
from vla.policies.load import load_policy
from vla.sim.collect_options import Collect
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME
from vla.training import duration
from vla.training.cli import Hooks
from vla.training.cli import main as lightning


def checkpoint(tmp_path, step):
    return tmp_path / f"run/checkpoints/step={step:07d}.ckpt"


def test_fit_then_everything_that_takes_its_checkpoint(config, tmp_path, data, capsys, caplog, monkeypatch):
    monkeypatch.setattr(duration, "STEPS", 1)
    assert cli.main(["fit", "-c", str(config), "--trainer.enable_progress_bar=true"]) == 0
    shown = capsys.readouterr().err
    assert "M parameters for 4 steps of 4 samples, in 32-true on this CPU" in shown
    assert re.search(r"expected: about \d+ seconds on this CPU .*measured over 1 steps", shown)
    assert re.search(r"4/4 .*loss \d+\.\d+, decoded error \d\.\d+", shown)
    assert not [line for line in caplog.messages if re.search("Tip|GPU|Seed|FLOPs", line)]
    contract = PolicyContract.load(tmp_path / "run")
    assert contract.chunk == 2 and list(contract.embodiments) == [EMBODIMENT_NAME]
    logged = (tmp_path / "run/logs/metrics.csv").read_text().splitlines()[0]
    for name in (
        "robot_loss",
        "questions_loss",
        "robot_count",
        "data_wait",
        "val/teacher_forced/action_l1",
        "val/decoded_error",
        "valid_mass",
        "questions_question_accuracy",
    ):
        assert name in logged, name

    model, _, saved = load_checkpoint(checkpoint(tmp_path, 4))
    assert saved.hash == contract.hash and not model.training

    assert cli.main(["validate", "-c", str(config), "--ckpt_path", str(checkpoint(tmp_path, 4))]) == 0
    capsys.readouterr()
    assert cli.main(["predict", "-c", str(config), "--ckpt_path", str(checkpoint(tmp_path, 4))]) == 0
    assert f"6 lines of decoded and true actions: {tmp_path}/run/predictions.jsonl" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "run/predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and np.shape(rows[0]["actions"]) == (2, 7) and len(rows[-1]["truth"]) == 1
    # One action of each chunk is executed. Every held-out step is among the decoded ones.
    action = contract.embodiment().action
    half, varies = (np.array(action.high) - np.array(action.low)) / 2, [constant is None for constant in action.constant]
    errors = [np.abs((np.array(r["actions"][0]) - r["truth"][0]) / half)[varies] for r in rows]
    with (tmp_path / "run/logs/metrics.csv").open() as file:
        logged = [float(row["val/decoded_error"]) for row in csv.DictReader(file) if row["val/decoded_error"]]
    assert logged == pytest.approx([np.mean(errors)] * 2, abs=1e-4)

    assert cli.main(["export", "--ckpt", str(checkpoint(tmp_path, 4)), "--out", str(tmp_path / "export")]) == 0
    from_export, from_checkpoint = load_policy(str(tmp_path / "export")), load_policy(str(checkpoint(tmp_path, 4)))
    seen = Observation(
        "a", {c.name: np.zeros((64, 64, 3), np.uint8) for c in EMBODIMENT.cameras}, np.zeros(5), "lift the red cube"
    )
    assert np.array_equal(from_export.act([seen])[0].actions, from_checkpoint.act([seen])[0].actions)


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("quantile", ["--contract.tokens=append", "--contract.prompt=In: {instruction}? {images} {state} Out: "]),
        ("numbers", ["--contract.codec_args.highest=100", "--contract.terminate=false"]),
        ("fast", ["--contract.codec_args.vocab_size=300", "--contract.tokens=append"]),
        ("uniform", ["--contract.block=bidirectional"]),
    ],
)
def test_other_codecs_are_fitted_trained_and_exported(config, tmp_path, data, codec, options):
    export = tmp_path / "export"
    arguments = ["fit", "-c", str(config), f"--contract.codec={codec}", *options, f"--export={export}"]
    assert cli.main([*arguments, "--trainer.max_steps=2"]) == 0
    contract = PolicyContract.load(export)
    assert contract.codec == codec and contract.hash == PolicyContract.load(tmp_path / "run").hash
    if codec != "quantile":  # fitted on the same data it is the same: what was saved can be used
        assert cli.main(["predict", *arguments[1:-1], "--ckpt_path", str(checkpoint(tmp_path, 2))]) == 0
        rows = [json.loads(line) for line in (tmp_path / "run/predictions.jsonl").read_text().splitlines()]
        assert all(row["status"] == "" and np.shape(row["actions"]) == (2, 7) for row in rows)
    policy = load_policy(str(export))
    images = {c.name: np.zeros((64, 64, 3), np.uint8) for c in EMBODIMENT.cameras}
    chunk = policy.act([Observation("a", images, np.zeros(5), "lift the red cube")])[0]
    assert not chunk.status and chunk.actions.shape == (2, 7)


def test_digits_are_not_smeared(config, capsys):
    code = cli.main(["fit", "-c", str(config), "--contract.codec=numbers", "--model.bin_smoothing=2"])
    assert code == 2 and "model.bin_smoothing" in capsys.readouterr().err


@pytest.mark.parametrize("killed_at", [2, 4])
def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_interrupted(config, tmp_path, killed_at):
    """Within an epoch of four steps, and at its end."""
    steps = ["--trainer.max_steps=6", "--trainer.val_check_interval=2"]
    assert cli.main(["fit", "-c", str(config), *steps]) == 0
    straight = torch.load(checkpoint(tmp_path, 6), weights_only=True)
    checkpoint(tmp_path, 6).unlink()
    assert cli.main(["fit", "-c", str(config), *steps, "--ckpt_path", str(checkpoint(tmp_path, killed_at))]) == 0
    resumed = torch.load(checkpoint(tmp_path, 6), weights_only=True)
    assert resumed["VLAData"]["consumed"] == straight["VLAData"]["consumed"] == 24
    for name, value in straight["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name


def test_checkpoint_of_another_contract_is_refused(trained, tmp_path, capsys):
    code = cli.main(["validate", "-c", str(trained), "--ckpt_path", str(checkpoint(tmp_path, 4)), "--contract.chunk=3"])
    shown = capsys.readouterr().err
    assert code == 2 and "chunk: 2 against 3" in shown


def test_checkpoint_without_a_contract_is_refused(tmp_path, capsys):
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(UserError, match="no contract"):
        load_checkpoint(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="not a readable checkpoint"):
        load_checkpoint(path)


def test_cut_off_shard_is_named(config, data, tmp_path, capsys):
    import shutil

    folder = tmp_path / "cut"
    shutil.copytree(data / "robot", folder)
    shard = folder / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:20_000])
    for index in folder.glob("*.idx"):
        index.unlink()
    code = cli.main(["fit", "-c", str(config), f"--data.sources.robot.init_args.folder={folder}"])
    assert code == 2 and "shard-000000.tar" in capsys.readouterr().err


def test_answers_and_not_tokens_share_a_sample():
    from vla.training.module import Answers

    # Row 0 has two answers, of one and of three tokens; row 1 has one; row 2 none.
    places = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    branches = torch.tensor([[1, 2, 2, 2], [0, 1, 1, 1], [0, 1, 1, 1]])
    answers = Answers(places, branches)
    losses = torch.tensor([4.0, 1.0, 2.0, 3.0, 5.0, 7.0])
    assert answers.mean(losses).tolist() == [4, 2, 6] and answers.mean_by_row(losses).tolist() == [3, 6, 0]


def test_parameters_learn_as_the_configuration_says(vlm):
    from vla.models.load import load_vlm
    from vla.training.optimizer import freeze, parameter_groups

    model = load_vlm(vlm)[0]
    freeze(model, ["vision.*norm", "vision"])
    groups = parameter_groups(model, 0.1, 0.05, {"language.layers": 0.5, "language": 2.0})
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    for name, p in model.named_parameters():
        if name.startswith("vision"):
            assert not p.requires_grad and id(p) not in rates
        else:
            rate = 0.05 if name.startswith("language.layers") else 0.2
            decay = 0.0 if p.ndim < 2 or p is model.get_input_embeddings().weight else 0.05
            assert rates[id(p)] == pytest.approx((rate, decay)), name
    with pytest.raises(UserError, match="no parameter's name begins with 'visual'"):
        freeze(model, ["visual"])
    with pytest.raises(UserError, match="every parameter is frozen"):
        freeze(model, [".*"])


def test_the_rate_warms_up_and_falls_along_a_cosine():
    from vla.training.optimizer import FLOOR, warm_up_then_cosine

    factor = warm_up_then_cosine(4, 20)
    assert [factor(step) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    assert factor(12) == pytest.approx((1 + FLOOR) / 2) and factor(20) == factor(99) == pytest.approx(FLOOR)
    assert all(factor(step) > factor(step + 1) for step in range(4, 20)) and warm_up_then_cosine(0, 5)(0) == 1
    share = warm_up_then_cosine(0.2, 20)
    assert [share(step) for step in range(30)] == [factor(step) for step in range(30)]


@pytest.mark.parametrize(("asked", "count"), [("", 6), ("{data}/robot", 24), ("{data}/robot/shard-000000.tar", 24)])
def test_predict_writes_what_is_asked_for(config, tmp_path, data, asked, count):
    """The held-out steps, a whole data set, one shard of it."""
    assert cli.main(["predict", "-c", str(config), f"--data.predict={asked.format(data=data)}"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run/predictions.jsonl").read_text().splitlines()]
    assert len(rows) == count and [r["step"] for r in rows] == list(range(6)) * (count // 6)


def test_predict_refuses_what_is_not_there_or_of_another_robot(config, data, tmp_path, capsys):
    assert cli.main(["predict", "-c", str(config), f"--data.predict={data}/robot/shard-000007.tar"]) == 2
    assert "no such shard" in capsys.readouterr().err
    other = tmp_path / "other"
    shutil.copytree(data / "robot", other)
    card = (other / "card.yaml").read_text()
    (other / "card.yaml").write_text(card.replace("name: wrist", "name: side"))
    assert cli.main(["predict", "-c", str(config), f"--data.predict={other}"]) == 2
    assert f"{other}: cameras: the policy has front, wrist, the data front, side" in capsys.readouterr().err
    (other / "card.yaml").write_text(card.replace(f"embodiment: {EMBODIMENT_NAME}", "embodiment: my-arm"))
    assert cli.main(["predict", "-c", str(config), f"--data.predict={other}"]) == 2
    assert f"error: {other}: its robot is my-arm, the policy is for {EMBODIMENT_NAME}" in capsys.readouterr().err


def test_checkpoints_are_chosen_by_success(config, tmp_path):
    """A rollout every two steps; of the four checkpoints the best one stays, and its name says why."""
    body = yaml.safe_load(config.read_text())
    body["trainer"]["callbacks"] += [
        {"class_path": "vla.training.callbacks.RolloutCallback", "init_args": {"every": 2, "episodes": 3}},
        {
            "class_path": "vla.training.saving.Checkpoints",
            "init_args": {"dirpath": str(tmp_path / "best"), "every": 2, "keep": 1, "monitor": "rollout/success"},
        },
    ]
    body["trainer"]["max_steps"] = 8
    config.write_text(yaml.safe_dump(body))
    asked, rates = [], [0.2, 0.9, 0.5, 0.1]

    def evaluate(policy, episodes):
        assert not policy.model.training
        asked.append(episodes)
        return {"success": rates[len(asked) - 1]}

    lightning(["fit", "-c", str(config)], Hooks(lambda cards: evaluate, None, None, Collect, None))
    assert asked == [3] * 4
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["step=0000004 rollout success 0.900.ckpt"]
    logged = [row.split(",") for row in (tmp_path / "run/logs/metrics.csv").read_text().splitlines()]
    column = logged[0].index("rollout/success")
    assert [float(row[column]) for row in logged[1:] if row[column]] == rates


def test_testing_rolls_out_in_the_simulator(trained, tmp_path):
    last = str(checkpoint(tmp_path, 4))
    assert cli.main(["test", "-c", str(trained), "--ckpt_path", last, "--model.test_episodes=1"]) == 0
    tested = (tmp_path / "run/logs/metrics.csv").read_text()
    assert "test/success" in tested and "test/wrong_object" in tested


def test_fine_tuning_from_an_export_keeps_its_contract(config, tmp_path):
    assert cli.main(["fit", "-c", str(config), f"--export={tmp_path}/first"]) == 0
    more = [f"--contract.source={tmp_path}/first", f"--model.vlm={tmp_path}/first", "--contract.chunk=7"]
    assert cli.main(["fit", "-c", str(config), *more, f"--export={tmp_path}/second"]) == 0
    first, second = (PolicyContract.load(tmp_path / name) for name in ("first", "second"))
    assert first.hash == second.hash and second.chunk == 2 and second.decode == "median"
    assert cli.main(["fit", "-c", str(config), *more, "--contract.decode=mode", f"--export={tmp_path}/third"]) == 0
    assert PolicyContract.load(tmp_path / "third") == dataclasses.replace(first, decode="mode")


def test_a_later_configuration_and_the_command_line_have_the_last_word(config, tmp_path):
    (tmp_path / "more.yaml").write_text("trainer: {max_steps: 3}\nmodel: {learning_rate: 0.5}\n")
    assert cli.main(["fit", "-c", str(config), "-c", str(tmp_path / "more.yaml"), "--model.learning_rate=0.001"]) == 0
    used = yaml.safe_load((tmp_path / "run/logs/config.yaml").read_text())
    assert used["trainer"]["max_steps"] == 3 and used["model"]["learning_rate"] == 0.001


def test_weights_and_biases_by_configuration(config, tmp_path):
    pytest.importorskip("wandb")
    logger = ["--trainer.logger=lightning.pytorch.loggers.WandbLogger", "--trainer.logger.project=vla"]
    logger += ["--trainer.logger.offline=true", f"--trainer.logger.save_dir={tmp_path}"]
    assert cli.main(["fit", "-c", str(config), *logger]) == 0
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
