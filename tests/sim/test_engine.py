"""Rollouts that survive their workers, and that depend on nothing but episode, policy and batch."""

import numpy as np
import pytest

from vla.contract import PolicyContract
from vla.errors import ContractMismatch, UserError
from vla.models.load import load_vlm
from vla.observation import ActionChunk
from vla.policies.local import LocalPolicy
from vla.policies.random import RandomPolicy
from vla.sim.rollout import Episode, Workers, rollout
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME

EPISODES = [Episode(seed, kind, horizon=5) for seed in range(3) for kind in ("correct", "nonsense")]


def lines(results):
    return [{k: v for k, v in r.to_dict().items() if k not in ("seconds", "restarts")} for r in results]


@pytest.fixture(scope="module")
def expected():
    return {}


@pytest.mark.parametrize("trouble", ["", "kill", "raise", "stop"])
def test_a_lost_worker_changes_nothing_but_the_note_of_it(toy, seeing, tmp_path, expected, trouble):
    with Workers(2, toy(trouble, tmp_path / "marker")) as workers:
        results = rollout(seeing(), EPISODES, workers, deadline=8.0 if trouble == "stop" else 60.0)
    assert lines(results) == expected.setdefault("lines", lines(results))
    assert len(workers.restarts) == bool(trouble)
    if trouble:
        assert sum(len(r.more["restarts"]) for r in results) == 1
        why = {"kill": "exit code -9", "raise": "the OpenGL context is lost", "stop": "no answer within 8 s"}[trouble]
        assert why in workers.restarts[0] and "seed 1" in workers.restarts[0]


def test_an_episode_that_always_fails_is_named_and_the_workers_go_on(toy, seeing):
    with Workers(1, toy("raise")) as workers:
        with pytest.raises(UserError, match="failed 3 times: RuntimeError: the OpenGL") as refused:
            rollout(seeing(), EPISODES, workers)
        assert "episode lift / seen, seed 1" in str(refused.value)
        assert len(rollout(seeing(), EPISODES[:2], workers)) == 2


def test_malformed_answers_are_counted_and_the_robot_rests(toy, seeing):
    class Stuttering(seeing):
        """Says nothing in its first answer to the episodes of seed 1."""

        asked = set()

        def act(self, observations):
            chunks = super().act(observations)
            for i, o in enumerate(observations):
                if "/1/" in o.id and o.id not in self.asked:
                    self.asked.add(o.id)
                    chunks[i] = ActionChunk(np.empty((0, 7)), np.empty(0, bool), {}, "malformed: 3 of 7 numbers")
            return chunks

    with Workers(2, toy()) as workers:
        results = rollout(Stuttering(), EPISODES, workers)
        plain = rollout(seeing(), EPISODES, workers)
    assert [r.malformed for r in results] == [int(r.seed == 1) for r in results]
    assert results[0].to_dict()["malformed"] == 0 and [r.malformed for r in plain] == [0] * len(plain)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda a: a * np.nan, "NaN"),
        (lambda a: a[:, :4], "shape"),
        (lambda a: a[:0], "shape"),
        (lambda a: a[0], "expected \\[T, A\\]"),
        (lambda a: [["up"] * 7] * 3, "not an array of numbers"),
    ],
)
def test_a_bad_answer_names_episode_and_step_and_loses_no_finished_one(toy, seeing, spoil, says):
    finished = []
    policy = seeing(lambda o, actions: spoil(actions) if "/1/" in o.id else actions)
    with Workers(1, toy()) as workers, pytest.raises(ContractMismatch, match=says) as refused:
        rollout(policy, EPISODES, workers, finished.append)
    assert "episode lift/seen/1/correct, step 0" in str(refused.value) and len(finished) == 2


def test_too_few_answers_are_refused(toy, seeing):
    policy = seeing()
    policy.act = lambda observations: []
    with Workers(1, toy()) as workers, pytest.raises(ContractMismatch, match="0 answers to 1 observations"):
        rollout(policy, EPISODES[:1], workers)


def test_nothing_depends_on_workers_and_order(toy, seeing):
    """With our own model too, whose batches are padded: neighbours, row and number of workers change no digit."""
    episodes = [Episode(seed, horizon=3) for seed in range(4)]
    vlm = load_vlm("tiny")
    contract = PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=1, execute=1, plan=())
    policies = (seeing, lambda: LocalPolicy(*vlm, contract, batch=2), lambda: RandomPolicy({EMBODIMENT_NAME: EMBODIMENT}))
    found = []
    for count, order in ((1, 1), (2, 1), (3, -1)):
        with Workers(count, toy()) as workers:
            found.append([lines(rollout(make(), episodes[::order], workers))[::order] for make in policies])
    assert found[0] == found[1] == found[2]
    assert all(len({line["state"] for line in one}) > 3 for one in found[0])


def test_the_same_episode_twice_is_refused(toy, seeing):
    with Workers(1, toy()) as workers, pytest.raises(UserError, match="twice"):
        rollout(seeing(), EPISODES[:1] * 2, workers)


def test_images_are_rendered_only_where_the_policy_will_look(toy, seeing):
    with Workers(1, toy()) as workers:
        # Two actions of each chunk are carried out: a look at the start and after steps 2 and 4.
        assert rollout(seeing(), [Episode(0, horizon=6)], workers)[0].more["seconds"] == 3
        assert rollout(seeing(), [Episode(0, horizon=6)], workers, execute=1)[0].more["seconds"] == 6
        assert rollout(RandomPolicy({EMBODIMENT_NAME: EMBODIMENT}), [Episode(0, horizon=6)], workers)[0].more["seconds"] == 0
