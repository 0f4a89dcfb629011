"""Rates and language use from hand-made episodes."""

import pytest

from vla.report.records import EpisodeRecord
from vla.report.summary import language_use, malformed, rates, summarise


def episode(seed, kind, target, first, variation="seen"):
    failure = "" if first and first == target else "wrong object" if first else "nothing grasped"
    more = {"target": target, "first": first, "executed": bool(first)}
    return EpisodeRecord("lift", variation, seed, kind, "", "0", not failure, 5, failure, more)


def test_language_use_of_the_obedient_the_deaf_and_the_idle():
    obedient = [episode(s, *pair) for s in range(10) for pair in (("correct", "a", "a"), ("swapped", "b", "b"))]
    deaf = [episode(s, *pair) for s in range(10) for pair in (("correct", "a", "a"), ("swapped", "b", "a"))]
    idle = [episode(s, *pair) for s in range(10) for pair in (("correct", "a", ""), ("swapped", "b", ""))]
    assert language_use(obedient)["rate"] == 1 and language_use(obedient)["low"] > 0.5
    assert language_use(deaf)["rate"] == 0 and language_use(idle)["rate"] == 0
    assert language_use([e for e in obedient if e.kind == "correct"]) is None


def test_malformed_is_a_share_of_the_steps_where_it_was_counted():
    episodes = [episode(seed, "correct", "a", "a") for seed in range(4)]
    assert malformed(episodes) is None and summarise(episodes)["malformed"] is None
    episodes[0].more["malformed"], episodes[1].more["malformed"] = 1, 0
    assert malformed(episodes) == 0.1 == summarise(episodes)["malformed"]


def test_the_wrong_task_is_a_share_of_the_episodes_where_it_was_noted():
    episodes = [episode(seed, "correct", "a", "a" if seed else "") for seed in range(4)]
    assert "wrong_task" not in rates(episodes), "records of earlier versions"
    episodes[0].more["other_tasks"], episodes[1].more["other_tasks"] = ["push: a to the left", "stack: a on b"], []
    assert rates(episodes)["wrong_task"]["rate"] == 0.5 and rates(episodes)["wrong_task"]["n"] == 2
    assert summarise(episodes)["groups"][0]["failures"] == {"nothing grasped": 1}, "it is no class of failure"


def test_rates_and_groups():
    episodes = [episode(0, "correct", "a", "a"), episode(1, "correct", "a", "b"), episode(2, "correct", "a", "")]
    result = rates(episodes)
    assert result["success"]["rate"] == pytest.approx(1 / 3) and result["execution"]["rate"] == pytest.approx(2 / 3)
    assert result["recognition"] | {"low": 0, "high": 0} == {"rate": 0.5, "n": 2, "low": 0, "high": 0}
    assert result["malformed"]["rate"] == 0 and result["malformed"]["n"] == 3
    episodes[2].more["malformed"] = 4
    assert rates(episodes)["malformed"]["rate"] == pytest.approx(1 / 3)
    summary = summarise([*episodes, episode(0, "correct", "a", "a", "dim"), episode(0, "empty", "", "b")])
    assert [(g["variation"], g["kind"], g["success"]["n"]) for g in summary["groups"]] == [
        ("seen", "correct", 3),
        ("dim", "correct", 1),
        ("seen", "empty", 1),
    ]
    assert summary["groups"][0]["failures"] == {"nothing grasped": 1, "wrong object": 1}
    assert summary["kinds"]["correct"]["success"]["n"] == 4 and summary["language_use"] == {"all": None, "groups": []}
