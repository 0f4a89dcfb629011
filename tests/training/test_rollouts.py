"""Rollouts during training: in the simulator and the task of the data, which is known before training begins."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
import yaml

from vla import cli
from vla.commands import training
from vla.contract import Camera
from vla.datasets.card import DatasetCard
from vla.datasets.shards import ShardWriter
from vla.errors import ContractMismatch, UserError
from vla.sim.collect import generator
from vla.sim.collect_options import Collect
from vla.sim.episodes import Episode
from vla.sim.robosuite.embodiment import EMBODIMENTS
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME
from vla.sim.workers import Workers


@pytest.fixture
def results(monkeypatch):
    """The results of rollouts during training, in one worker, whose episodes end after three steps."""
    seen = []

    def rollout(*arguments):
        seen.extend(made := run(*arguments))
        return made

    run = training.run_rollout
    monkeypatch.setattr(training, "run_rollout", rollout)
    monkeypatch.setattr(training, "Workers", functools.partial(Workers, 1))
    monkeypatch.setattr(training, "Episode", functools.partial(Episode, horizon=3))
    return seen


def rolling_out(config, sources=None):
    body = yaml.safe_load(config.read_text())
    body["trainer"] |= {"max_steps": 2, "limit_val_batches": 0}
    rollouts = {"class_path": "vla.training.callbacks.RolloutCallback", "init_args": {"every": 2, "episodes": 1}}
    body["trainer"]["callbacks"].append(rollouts)
    if sources:
        body["data"]["sources"] = sources
        body["contract"]["plan"] = []
    config.write_text(yaml.safe_dump(body))
    return ["fit", "-c", str(config)]


def source(folder):
    return {"class_path": "vla.datasets.robot.RobotSource", "init_args": {"folder": str(folder), "holdout": 0.25}}


def write_steps(folder, name, spec):
    """Two episodes of a robot, with noise for images, and the card that `vla collect --task robosuite-Lift` writes."""
    rng = np.random.default_rng(0)
    with ShardWriter(folder) as writer:
        for episode, step in itertools.product(range(2), range(4)):
            images = {f"{c.name}.jpg": rng.integers(0, 255, (c.height, c.width, 3), np.uint8) for c in spec.cameras}
            action = rng.uniform(spec.action.low, spec.action.high).astype(np.float32)
            state = rng.uniform(spec.state.low, spec.state.high).astype(np.float32)
            about = {
                "episode": episode,
                "step": step,
                "length": 4,
                "instruction": "lift the red cube",
                "embodiment": name,
                "target": "",
            }
            members = {"action.npy": action, "state.npy": state, "json": {**about, "terminate": int(step == 3)}}
            writer.write(f"e{episode}_s{step}", {**images, **members})
    made_by = generator(Collect(str(folder), task="robosuite-Lift"))
    DatasetCard("robosuite-Lift", "robot", name, spec, shards=writer.shards, generator=made_by).save(folder)


def test_a_policy_for_robosuites_lift_is_rolled_out_there(config, tmp_path, results):
    write_steps(tmp_path / "data", "robosuite-panda", EMBODIMENTS["robosuite-panda"])
    assert cli.main(rolling_out(config, {"lift": source(tmp_path / "data")})) == 0
    assert [result.task for result in results] == ["robosuite-Lift"] and results[0].steps <= 3
    assert "rollout/success" in (tmp_path / "run/logs/metrics.csv").read_text().splitlines()[0]


def test_data_of_a_robot_that_no_simulator_has_is_refused_before_training(config, data, tmp_path, results, capsys):
    card = DatasetCard.load(data / "robot")
    (tmp_path / "data").mkdir()
    for path in (data / "robot").iterdir():
        (tmp_path / "data" / path.name).symlink_to(path)
    (tmp_path / "data/card.yaml").unlink()
    DatasetCard("real", "robot", "widowx", card.spec).save(tmp_path / "data")
    assert cli.main(rolling_out(config, {"real": source(tmp_path / "data")})) == 2
    said = capsys.readouterr().err
    assert "no simulator has the data's embodiment (widowx)" in said and "panda-tabletop, robosuite-panda" in said
    assert not list(tmp_path.glob("run/logs/metrics.csv"))


def card(embodiment, spec, **made):
    return DatasetCard("data", "robot", embodiment, spec, generator=made)


LIFT, PUT = (card(EMBODIMENT_NAME, EMBODIMENT, task=task) for task in ("lift", "put"))


@pytest.mark.parametrize(
    ("cards", "tasks"),
    [
        ([card(EMBODIMENT_NAME, EMBODIMENT, task="push")], ["push", "push", "push"]),
        ([card(EMBODIMENT_NAME, EMBODIMENT)], ["lift", "lift", "lift"]),
        ([card("robosuite-panda", EMBODIMENTS["robosuite-panda"])], ["robosuite-Lift"] * 3),
        ([card("robosuite-panda-wiper", EMBODIMENTS["robosuite-panda-wiper"])], ["robosuite-Wipe"] * 3),
        (
            [card(EMBODIMENT_NAME, EMBODIMENT, task="lift"), card(EMBODIMENT_NAME, EMBODIMENT, task="put")],
            ["lift", "put", "lift"],
        ),
        ([card("widowx", EMBODIMENT), card(EMBODIMENT_NAME, EMBODIMENT, task="stack")], ["stack"] * 3),
        ([card(EMBODIMENT_NAME, EMBODIMENT, task="tidy up")], ["lift"] * 3),
    ],
)
def test_the_card_names_the_task(monkeypatch, cards, tasks):
    questions = DatasetCard("asked", "questions", EMBODIMENT_NAME, EMBODIMENT, generator={"task": "questions"})
    evaluator, episodes = training.Evaluator(), []
    evaluator.workers = object()
    monkeypatch.setattr(training, "run_rollout", lambda policy, todo, workers: episodes.extend(todo) or [])
    evaluator([questions, *cards])(None, 3)
    assert [episode.task for episode in episodes] == tasks
    assert [episode.seed for episode in episodes] == [training.TRAINING_ROLLOUTS + i for i in range(3)]


def test_images_of_another_size_are_refused():
    large = dataclasses.replace(EMBODIMENT, cameras=(Camera("front", 84, 84), Camera("wrist", 84, 84)))
    with pytest.raises(ContractMismatch, match="cameras"):
        training.Evaluator()([card(EMBODIMENT_NAME, large)])
    with pytest.raises(UserError, match="there is no robot data"):
        training.Evaluator()([DatasetCard("asked", "questions", EMBODIMENT_NAME, EMBODIMENT)])
