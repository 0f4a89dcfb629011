"""Training: the sequence that is scored, the contract in the checkpoint, resume, mistakes."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import yaml

from vla import cli
from vla.contract import PolicyContract
from vla.datasets.card import DatasetCard
from vla.datasets.shards import ShardWriter
from vla.errors import UserError
from vla.examples import Examples
from vla.models.load import new_tiny
from vla.policies.base import Observation, RecedingHorizon, TemporalEnsemble
from vla.policies.load import load_policy
from vla.sim.embodiment import EMBODIMENT, EMBODIMENT_NAME
from vla.training.checkpoint import load_checkpoint

SMALL = {"text_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}}


@pytest.fixture(scope="session")
def vlm(tmp_path_factory):
    """A model folder of the real classes, small and random."""
    from vla.commands import new_tokenizer

    folder = tmp_path_factory.mktemp("vlm")
    model, processor = new_tiny(new_tokenizer(), **SMALL)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Robot and question data of the tabletop's form, with noise for pictures."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("data")

    def pictures():
        return {f"{c.name}.jpg": rng.integers(0, 255, (64, 64, 3), np.uint8) for c in EMBODIMENT.cameras}

    with ShardWriter(root / "robot") as writer:
        for episode in range(4):
            for step in range(6):
                action = rng.uniform(EMBODIMENT.action.low, EMBODIMENT.action.high).astype(np.float32)
                action[3:5] = 0
                description = {
                    "episode": episode,
                    "step": step,
                    "length": 6,
                    "instruction": "lift the red cube",
                    "terminate": int(step == 5),
                    "embodiment": EMBODIMENT_NAME,
                    "target": "red cube",
                    "point": [0.5, 0.25],
                    "reach": [10, 20, 30, 40],
                }
                state = np.array([0, 0, 0.1, 0, 0.04], np.float32)
                members = {**pictures(), "action.npy": action, "state.npy": state, "json": description}
                writer.write(f"e{episode:06d}_s{step:04d}", members)
    with ShardWriter(root / "questions") as writer:
        for i in range(12):
            asked = [
                {"type": "where", "question": "where is the red cube", "answer": [[0.5, 0.25]]},
                {"type": "colour", "question": "what colour is the cube", "answer": "red"},
                {"type": "list", "question": "list the objects", "answer": ["red cube", [0.5, 0.25]]},
                {"type": "reach", "question": "where is the red cube from the gripper", "answer": [10, 20, 30, 40]},
            ]
            writer.write(f"q{i:06d}", {**pictures(), "json": {"questions": asked}})
    for kind in ("robot", "questions"):
        DatasetCard(kind, kind, EMBODIMENT_NAME, EMBODIMENT).save(root / kind)
    return root


@pytest.fixture
def config(tmp_path, vlm, data):
    """A small recipe in the form of configs/demo.yaml."""
    source = "vla.datasets.sources."
    body = {
        "data": {
            "batch_size": 4,
            "val_samples": 4,
            "epoch_steps": 4,
            "sources": {
                "robot": {
                    "class_path": source + "RobotSource",
                    "init_args": {"folder": str(data / "robot"), "weight": 0.5, "holdout": 0.25},
                },
                "questions": {
                    "class_path": source + "QuestionSource",
                    "init_args": {"folder": str(data / "questions"), "weight": 0.5, "loss_weight": 0.5, "holdout": 0.25},
                },
            },
        },
        "contract": {"chunk": 2, "execute": 1, "plan": ["where", "reach"]},
        "model": {"vlm": str(vlm), "warmup": 2},
        "trainer": {
            "accelerator": "cpu",
            "precision": "32-true",
            "max_steps": 4,
            "num_sanity_val_steps": 0,
            "val_check_interval": 4,
            "check_val_every_n_epoch": None,
            "log_every_n_steps": 1,
            "gradient_clip_val": 1.0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": str(tmp_path / "run"),
            "logger": {
                "class_path": "lightning.pytorch.loggers.CSVLogger",
                "init_args": {"save_dir": str(tmp_path / "run"), "name": "", "version": "logs"},
            },
            "callbacks": [
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {
                        "dirpath": str(tmp_path / "run/checkpoints"),
                        "every_n_train_steps": 2,
                        "save_top_k": -1,
                        "filename": "{step}",
                        "enable_version_counter": False,
                    },
                },
                {"class_path": "vla.training.callbacks.WritePredictions"},
            ],
        },
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(body))
    return path


def checkpoint(tmp_path, step):
    return tmp_path / f"run/checkpoints/step={step}.ckpt"


def test_fit_then_everything_that_takes_its_checkpoint(config, tmp_path, data, capsys):
    assert cli.main(["fit", "-c", str(config)]) == 0
    contract = PolicyContract.load(tmp_path / "run")
    assert contract.chunk == 2 and list(contract.embodiments) == [EMBODIMENT_NAME]
    logged = (tmp_path / "run/logs/metrics.csv").read_text().splitlines()[0]
    for name in (
        "robot_loss",
        "questions_loss",
        "robot_count",
        "data_wait",
        "action_bin_error",
        "valid_mass",
        "questions_question_accuracy",
    ):
        assert name in logged, name

    model, _, saved = load_checkpoint(checkpoint(tmp_path, 4))
    assert saved.hash == contract.hash and not model.training

    assert cli.main(["validate", "-c", str(config), "--ckpt_path", str(checkpoint(tmp_path, 4))]) == 0
    assert cli.main(["predict", "-c", str(config), "--ckpt_path", str(checkpoint(tmp_path, 4))]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run/predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and np.shape(rows[0]["actions"]) == (2, 7) and len(rows[-1]["truth"]) == 1

    assert cli.main(["export", "--ckpt", str(checkpoint(tmp_path, 4)), "--out", str(tmp_path / "export")]) == 0
    from_export, from_checkpoint = load_policy(str(tmp_path / "export")), load_policy(str(checkpoint(tmp_path, 4)))
    seen = Observation(
        "a", {c.name: np.zeros((64, 64, 3), np.uint8) for c in EMBODIMENT.cameras}, np.zeros(5), "lift the red cube"
    )
    assert np.array_equal(from_export.act([seen])[0].actions, from_checkpoint.act([seen])[0].actions)


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


def test_checkpoint_of_another_contract_is_refused(config, tmp_path, capsys):
    assert cli.main(["fit", "-c", str(config)]) == 0
    capsys.readouterr()
    code = cli.main(["validate", "-c", str(config), "--ckpt_path", str(checkpoint(tmp_path, 4)), "--contract.chunk=3"])
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


@pytest.fixture(scope="module")
def examples(vlm):
    from vla.models.load import load_vlm

    return Examples(PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=3), load_vlm(vlm)[1])


def test_robot_sequence_scores_what_is_to_be_written_and_no_padding(examples, data):
    from vla.datasets.sources import RobotSource

    source = RobotSource(data / "robot", chunk=3)
    item = source.item(4, np.random.default_rng(0))  # one more step follows
    example = examples.robot(item)
    sequence = example.sequence
    written = sequence.ids[sequence.prefix :]
    assert len(written) == 2 + 3 * 8 and sequence.loss.sum() == 2 + 2 * 8
    assert not sequence.loss[: sequence.prefix].any() and not sequence.loss[-8:].any()
    chunk = examples.chunk(written)
    half = (np.array(EMBODIMENT.action.high) - EMBODIMENT.action.low) / 512
    assert (abs(chunk.actions[:2] - item.actions[:2]) <= half + 1e-6).all()
    assert chunk.terminate.tolist()[:2] == [False, True] and (chunk.actions[:, 3:5] == 0).all()
    assert np.allclose(chunk.info["point"], (0.5, 0.25), atol=1 / 64)
    assert all(i in legal for i, legal in zip(written.tolist(), examples.allowed(), strict=True))


def test_plan_stands_before_the_actions_and_comes_back(examples, data):
    from vla.datasets.sources import RobotSource

    planning = Examples(dataclasses.replace(examples.contract, plan=("where", "reach")), examples.processor)
    item = RobotSource(data / "robot", chunk=3).item(0, np.random.default_rng(0))
    sequence = planning.robot(item).sequence
    written = sequence.ids[sequence.prefix :]
    chunk = planning.chunk(written)
    assert len(written) == 2 + 4 + 3 * 8 and chunk.info["reach"] == [10, 20, 30, 40]
    assert np.array_equal(chunk.actions, examples.chunk(examples.robot(item).sequence.ids[-26:]).actions)
    assert all(i in legal for i, legal in zip(written.tolist(), planning.allowed(), strict=True))
    unknown = planning.robot(dataclasses.replace(item, reach=None)).sequence
    assert len(unknown) == len(sequence) and unknown.loss.sum() == sequence.loss.sum() - 4


def test_question_answer_comes_back_from_its_ids(examples, data):
    from vla.datasets.sources import QuestionSource

    source = QuestionSource(data / "questions")
    where, colour, everything, reach = (
        examples.question(source.item(0, np.random.default_rng(0), which)).sequence for which in range(4)
    )
    assert examples.vocabulary.ids_to_bins(reach.ids[reach.prefix : -1]).tolist() == [10, 20, 30, 40]
    assert examples.answer(colour.ids[colour.prefix :]) == ("red", None)
    text, point = examples.answer(where.ids[where.prefix :])
    assert point is not None and np.allclose(point, (0.5, 0.25), atol=1 / 64)
    assert "red cube" in examples.answer(everything.ids[everything.prefix :])[0]
    assert where.loss.sum() == 3 and colour.loss.sum() == 2


def test_answers_and_not_tokens_share_a_sample():
    from vla.training.module import Answers

    # Row 0 has two answers, of one and of three tokens; row 1 has one; row 2 none.
    places = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    branches = torch.tensor([[1, 2, 2, 2], [0, 1, 1, 1], [0, 1, 1, 1]])
    answers = Answers(places, branches)
    losses = torch.tensor([4.0, 1.0, 2.0, 3.0, 5.0, 7.0])
    assert answers.mean(losses).tolist() == [4, 2, 6] and answers.mean_by_row(losses).tolist() == [3, 6, 0]


def test_instruction_cannot_smuggle_in_a_picture(examples):
    images = {c.name: np.zeros((64, 64, 3), np.uint8) for c in EMBODIMENT.cameras}
    plain = examples.ask(images, "where is it").sequence.ids
    odd = examples.ask(images, "where is <image> <eos>").sequence.ids
    count = lambda ids: int((ids == examples.processor.image_token_id).sum())  # noqa: E731
    assert count(odd) == count(plain) and examples.vocabulary.eos_id not in odd


def test_policy_answers_do_not_depend_on_company(vlm):
    from vla.models.load import load_vlm
    from vla.policies.local import LocalPolicy

    contract = PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=2, execute=1)
    policy = LocalPolicy(*load_vlm(vlm), contract, batch=4)
    rng = np.random.default_rng(0)

    def see(i, words):
        pictures = {c.name: rng.integers(0, 255, (64, 64, 3), np.uint8) for c in EMBODIMENT.cameras}
        return Observation(str(i), pictures, np.array([0, 0, 0.1, 0, 0.04]), words)

    many = [see(0, "lift it"), see(1, "please lift the purple cylinder that stands on the left"), see(2, "")]
    together = policy.act(many)
    for one, chunk in zip(many, together, strict=True):
        assert np.array_equal(policy.act([one])[0].actions, chunk.actions)


class Counter:
    """Answers chunks that count its calls."""

    contract = PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=3, execute=2)

    def __init__(self):
        self.calls = 0

    def reset(self, ids):
        pass

    def act(self, observations):
        from vla.policies.base import ActionChunk

        self.calls += 1
        value = [[10.0 * self.calls + i] * 7 for i in range(3)]
        return [ActionChunk(np.array(value), np.zeros(3, bool)) for _ in observations]


def observe(name):
    return Observation(name, {}, np.zeros(5), "")


def test_receding_horizon_asks_again_after_the_executed_actions():
    policy = RecedingHorizon(Counter())
    got = [policy.act([observe("a")])[0].actions[0, 0] for _ in range(4)]
    assert got == [10, 11, 20, 21] and policy.policy.calls == 2
    policy.reset(["a"])
    assert policy.needs("a")


def test_temporal_ensemble_weighs_the_newest_most_and_leaves_the_gripper():
    policy = TemporalEnsemble(Counter(), decay=1.0)
    first, second = (policy.act([observe("a")])[0].actions[0] for _ in range(2))
    assert (first == 10).all()
    weight = np.exp(-1.0)
    assert np.isclose(second[0], (20 + weight * 11) / (1 + weight)) and second[-1] == 20
