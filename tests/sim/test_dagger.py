"""DAgger: what a policy does, labelled by the scripted expert."""

import json
import tarfile

import numpy as np
import pytest

from vla import cli
from vla.datasets.card import DatasetCard
from vla.datasets.robot import RobotSource
from vla.errors import UserError
from vla.observation import ActionChunk
from vla.sim import dagger
from vla.sim.collect_options import Collect
from vla.sim.dagger import advised_workers, collect_advised


@pytest.fixture
def collected(toy, seeing, tmp_path, monkeypatch):
    """Collects a round of toy episodes into a folder of that name: collected(name, **options)."""
    monkeypatch.setattr(dagger, "BLOCK", 2)

    def collect(name, trouble="", identity="seeing", workers=2, stop=0, teacher=None, **options):
        options = Collect(str(tmp_path / name), episodes=options.pop("episodes", 5), **options)

        def report(done, total, word):
            if stop and done == stop:
                raise KeyboardInterrupt

        with advised_workers(options, workers, toy(trouble, tmp_path / "marker")) as pool:
            collect_advised(options, seeing(), {"policy": identity}, pool, report, teacher)
        return tmp_path / name

    return collect


def shards(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*.tar"))}


def steps(folder):
    """The descriptions of all steps, in the order of the shards."""
    told = []
    for path in sorted(folder.glob("shard-*.tar")):
        with tarfile.open(path) as shard:
            told += [json.load(shard.extractfile(m)) for m in shard.getmembers() if m.name.endswith(".json")]
    return told


def test_every_state_of_the_policy_has_the_expert_s_label(collected):
    folder = collected("data")
    source = RobotSource(folder, chunk=2)
    first = source.sample(1, np.random.default_rng(0))
    assert np.allclose(first.actions[0], 0.01) and set(first.images) == {"front", "wrist"}
    # What the policy did is far from the label: the state of the next label is not where this one leads.
    assert not first.mask[1]
    told = steps(folder)
    assert {step["actor"] for step in told} == {"policy"} and {step["source"] for step in told} == {"dagger"}
    assert [step["terminate"] for step in told[:5]] == [0, 0, 0, 1, 1]
    card = DatasetCard.load(folder)
    assert card.counts["episodes"] == 5 and card.counts["steps"] == len(told) == 25
    assert card.generator["task"] == "lift"


def test_a_policy_can_be_the_expert(collected, seeing, tmp_path):
    class Half(seeing):
        def act(self, observations):
            steps, done = np.full((4, 7), 0.5), np.array([True, False, False, False])
            return [ActionChunk(steps, done) for _ in observations]

    told = steps(collected("data", teacher=Half()))
    assert {step["terminate"] for step in told} == {1} and {step["target"] for step in told} == {""}
    source = RobotSource(tmp_path / "data", chunk=1)
    assert all(np.allclose(source.sample(i, np.random.default_rng(0)).actions[0], 0.5) for i in range(3))

    class Broken(seeing):
        def act(self, observations):
            return [ActionChunk(np.empty((0, 7)), np.empty(0, bool), {}, "malformed: no end") for _ in observations]

    with pytest.raises(UserError, match="the expert's answer is malformed: no end"):
        collected("broken", teacher=Broken())


def test_the_expert_acts_in_its_share_of_stretches(collected):
    always = steps(collected("always", beta=1.0))
    assert {step["actor"] for step in always} == {"expert"} and {step["segment"] for step in always} == {0}
    some = [step["actor"] for step in steps(collected("some", beta=0.5, episodes=12))]
    assert 0.2 < some.count("expert") / len(some) < 0.8


def test_what_is_written_depends_on_neither_workers_nor_their_failures(collected):
    one = shards(collected("one", workers=1))
    assert one == shards(collected("two", workers=2)) == shards(collected("troubled", trouble="kill"))
    assert len(one) == 3


def test_an_interrupted_round_goes_on_without_duplicates(collected, tmp_path):
    whole = shards(collected("whole"))
    with pytest.raises(KeyboardInterrupt):
        collected("data", stop=3, workers=1)
    kept = shards(tmp_path / "data")
    assert len(kept) == 1 and not (tmp_path / "data/card.yaml").exists()
    for options, message in (({"seed": 1}, "beginning of another round"), ({"identity": "other"}, "beginning of another round")):
        with pytest.raises(UserError, match=message):
            collected("data", **options)
    assert shards(tmp_path / "data") == kept
    assert shards(collected("data")) == whole
    assert DatasetCard.load(tmp_path / "data").shards == {name: 10 if i < 2 else 5 for i, name in enumerate(whole)}
    with pytest.raises(UserError, match="already holds 3 shards"):
        collected("data")
    assert shards(collected("data", seed=1, overwrite=True)) != whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policy=expert"], "the expert already says what it would do"),
        (["--policy=random", "--task=questions"], "a policy does not act for questions"),
        (["--policy=random", "--task=robosuite-NutAssemblySquare"], "no scripted expert"),
        (["--policy=random", "--beta=1.5"], "beta 1.5"),
        (["--beta=0.5"], "--beta without --policy"),
        (["--expert=random"], "--expert without --policy"),
        (["--policy=random", "--expert=nowhere"], "nowhere"),
        (["--policy=random", "--expert=expert"], "leave it out for the scripted expert"),
        (["--policy=random", "--sizes=true"], "--policy with --sizes"),
        (["--policy=random", "--step_questions=0.5"], "--policy with --step_questions"),
        (["--task=questions", "--step_questions=0.5"], "questions with --step_questions"),
        (["--policy=nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_labelled_is_refused(options, message, tmp_path, capsys):
    assert cli.main(["collect", f"--out={tmp_path / 'data'}", *options]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.glob("data/shard*"))
