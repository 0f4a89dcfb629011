"""Records of evaluations that never happened."""

import pytest

from vla.report.records import EpisodeRecord, Record


def episode(seed=0, success=True, failure=None, task="lift", variation="seen", kind="correct", **other):
    failure = ("" if success else "dropped") if failure is None else failure
    values = {"instruction": "lift the red cube", "state": f"{task}-{variation}-{seed}", "steps": 40, **other}
    return EpisodeRecord(task, variation, seed, kind, success=success, failure=failure, **values)


def record(policy, episodes, **other):
    values = {"suite": "rt2/seen", "suite_hash": "5111e", "contract": "c0", "batch": [4], "versions": {"numpy": "2.4"}, **other}
    values["more"] = {"scenes": 4, **values.get("more", {})}
    return Record(policy=policy, episodes=list(episodes), **values)


@pytest.fixture
def make():
    """make(policy, "110…" or episodes): a record; a digit per seed says whether that episode succeeded."""

    def build(policy, episodes, task="lift", variation="seen", **other):
        if isinstance(episodes, str):
            episodes = [episode(i, c == "1", task=task, variation=variation) for i, c in enumerate(episodes)]
        return record(policy, episodes, **other)

    return build


@pytest.fixture(name="episode")
def episode_fixture():
    return episode
