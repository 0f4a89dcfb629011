"""Rollouts as robot data."""

import dataclasses
import json
import tarfile

import numpy as np
import pytest

from vla import cli
from vla.datasets.card import DatasetCard
from vla.datasets.robot import RobotSource
from vla.errors import UserError
from vla.sim.record import Recorder
from vla.sim.rollout import Episode, Workers, rollout

EPISODES = [Episode(seed, kind, horizon=4 + seed) for seed in range(3) for kind in ("correct", "nonsense")]


@pytest.fixture
def recorded(toy, seeing, tmp_path):
    """Records EPISODES into a folder of that name: recorded(name, workers, trouble)."""

    def record(name, workers=2, trouble=""):
        with Workers(workers, toy(trouble, tmp_path / "marker")) as pool, Recorder(tmp_path / name, "seeing") as recorder:
            rollout(seeing(), EPISODES, pool, recorder=recorder)
        return tmp_path / name

    return record


def shards(folder):
    return [path.read_bytes() for path in sorted(folder.glob("shard-*.tar"))]


def test_every_step_is_there_as_it_was_seen_and_done(recorded, seeing):
    folder = recorded("data")
    source = RobotSource(folder, chunk=2)
    assert len(source) == sum(e.horizon for e in EPISODES) and source.card.counts["episodes"] == len(EPISODES)
    first = source.sample(0, np.random.default_rng(0))
    assert set(first.images) == {"front", "wrist"} and first.instruction and first.episode == first.step == 0
    # The policy acts on what it sees, two actions at a time: the recorded ones are those carried out.
    assert np.array_equal(first.actions[0], first.actions[1])
    assert not np.array_equal(source.sample(2, np.random.default_rng(0)).actions[0], first.actions[0])
    assert DatasetCard.load(folder).generator["policy"] == "seeing"


def test_a_plan_is_recorded_with_every_step_that_carries_it_out(seeing, toy, tmp_path):
    class Planning(seeing):
        def act(self, observations):
            plan = {"words": "the cube", "point": [0.5, 0.5], "batch": 1}
            return [dataclasses.replace(chunk, info=plan) for chunk in super().act(observations)]

    with Workers(1, toy()) as pool, Recorder(tmp_path / "data", "planning") as recorder:
        rollout(Planning(), EPISODES[:1], pool, recorder=recorder)
    with tarfile.open(next((tmp_path / "data").glob("shard-*.tar"))) as shard:
        told = [json.load(shard.extractfile(m)) for m in shard.getmembers() if m.name.endswith(".json")]
    assert len(told) == 4 and all(t["plan"] == {"words": "the cube", "point": [0.5, 0.5]} and "point" not in t for t in told)
    assert len(RobotSource(tmp_path / "data", chunk=2)) == 4


def test_neither_workers_nor_a_restart_change_a_byte(recorded):
    alone = shards(recorded("alone", 1))
    assert shards(recorded("three", 3)) == alone and shards(recorded("restarted", 2, "kill")) == alone


def test_what_is_there_is_kept_and_an_expert_is_not_recorded(recorded, toy, tmp_path, capsys):
    folder = recorded("data")
    with pytest.raises(UserError, match="already holds"), Recorder(folder, "seeing"):
        pass
    with Workers(1, toy()) as pool, pytest.raises(UserError, match="nothing to record"):
        rollout(None, EPISODES, pool, recorder=Recorder(tmp_path / "expert", "expert"))


def test_the_command_records_a_policy_that_does_not_look(tmp_path):
    """On the real tabletop: images are rendered for the record alone."""
    assert cli.main(["rollout", "--policy", "random", "--horizon", "3", "--record", str(tmp_path / "data")]) == 0
    sample = RobotSource(tmp_path / "data", chunk=1).sample(0, np.random.default_rng(0))
    assert all(image.std() > 10 for image in sample.images.values())
