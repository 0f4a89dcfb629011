import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.datasets.mixture import PERIOD, Mixture, weigh
from vla.datasets.questions import QuestionSource
from vla.datasets.robot import RobotSource
from vla.datasets.sources import Shuffled
from vla.errors import UserError


class Numbers:
    """A source of N numbers with the interface that a mixture uses."""

    def __init__(self, count, weight=1.0, warmup_samples=0, kind="robot"):
        self.kind = kind
        self.count, self.weight, self.loss_weight, self.warmup_samples = count, weight, 1.0, warmup_samples

    def __len__(self):
        return self.count

    def order(self, seed):
        return Shuffled(self, seed)

    def permutation(self, rng):
        return rng.permutation(self.count)

    def sample(self, i, rng):
        return i, float(rng.random())


def mix(seed=0, **weights):
    return Mixture({name: Numbers(*value) for name, value in weights.items()}, seed)


def test_a_sample_is_a_function_of_seed_and_t():
    a, b = (mix(7, robot=(100, 3), words=(37, 1)) for _ in range(2))
    ts = list(range(0, 5000, 7))
    in_order = [a[t] for t in ts]
    order = np.random.default_rng(0).permutation(len(ts))
    out_of_order = {ts[i]: b[ts[i]] for i in order}
    assert in_order == [out_of_order[t] for t in ts] == [pickle.loads(pickle.dumps(a))[t] for t in ts]
    assert in_order != [mix(8, robot=(100, 3), words=(37, 1))[t] for t in ts]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.floats(0.05, 20), st.integers(0, 10**6))
def test_no_repeats_within_an_epoch(n, m, weight, seed):
    mixture = mix(seed, a=(n, 1.0), b=(m, weight))
    drawn = {}
    for t in range(3 * PERIOD):
        name, epoch, i = mixture.draw(t)
        drawn.setdefault((name, epoch), []).append(i)
    for (name, epoch), positions in drawn.items():
        assert len(set(positions)) == len(positions)
        if (name, epoch + 1) in drawn:
            assert sorted(positions) == list(range(len(mixture.sources[name])))


def test_epochs_have_different_orders():
    mixture = mix(0, a=(50, 1.0))
    first, second = ([mixture.draw(t)[2] for t in range(s, s + 50)] for s in (0, 50))
    assert first != second and sorted(first) == sorted(second)


@settings(deadline=None)
@given(st.lists(st.floats(0.05, 10), min_size=1, max_size=5))
def test_shares_follow_the_weights_and_are_what_was_drawn(weights):
    mixture = mix(3, **{f"s{i}": (29, w) for i, w in enumerate(weights)})
    for t in (PERIOD, PERIOD + 300):
        names = [mixture.draw(k)[0] for k in range(t)]
        for name, share in mixture.shares(t).items():
            assert share.wanted == pytest.approx(weights[int(name[1:])] / sum(weights))
            assert share.count == names.count(name) and share.epochs == share.count / 29 and share.share == share.count / t
    for weight, share in zip(weights, mixture.shares(PERIOD).values(), strict=True):
        assert abs(share.share - weight / sum(weights)) <= 1 / PERIOD


def test_a_source_without_weight_is_never_drawn():
    assert {mix(0, a=(5, 1.0), b=(5, 0.0)).draw(t)[0] for t in range(PERIOD)} == {"a"}


@pytest.mark.parametrize(
    "weights", [{}, {"a": (5, 0.0)}, {"a": (5, -1.0)}, {"a": (5, float("nan"))}, {"a": (5, 1.0), "b": (5, 1e-6)}]
)
def test_impossible_weights_are_refused(weights):
    with pytest.raises(UserError, match="weight"):
        mix(0, **weights)


def test_ranks_partition_every_batch():
    mixture, batch, world = mix(1, a=(40, 1.0), b=(30, 2.0)), 12, 3
    whole = [mixture[t] for t in range(batch * 4, batch * 5)]
    ranks = [[mixture[batch * 4 + row] for row in range(rank, batch, world)] for rank in range(world)]
    assert sorted(sum(ranks, [])) == sorted(whole)


def test_real_sources(robot, questions_folder):
    sources = {"robot": RobotSource(robot, weight=3, chunk=2), "questions": QuestionSource(questions_folder)}
    mixture = Mixture(sources, 0, epoch_length=50)
    assert len(mixture) == 50
    kinds = {name for name, _ in (mixture[t] for t in range(len(mixture)))}
    assert kinds == {"robot", "questions"}
    a, b = mixture[11][1], pickle.loads(pickle.dumps(mixture))[11][1]
    assert all(np.array_equal(a.images[c], b.images[c]) for c in ("front", "wrist"))


def test_a_source_with_warmup_comes_first_and_alone():
    mixture = mix(robot=(100, 3), easy=(10, 1, 25))
    names = [mixture.draw(t)[0] for t in range(2000)]
    assert set(names[:25]) == {"easy"} and set(names[25:]) == {"robot", "easy"}
    assert sorted(mixture.draw(t)[2] for t in range(10)) == list(range(10))
    drawn = mixture.shares(2000)
    assert {name: drawn[name].count for name in drawn} == {name: names.count(name) for name in drawn}
    # Then the mixture continues as if there had been no warm-up.
    plain = mix(robot=(100, 3), easy=(10, 1))
    assert [mixture.draw(t + 25) for t in range(50)] == [plain.draw(t) for t in range(50)]


def test_one_share_sets_robots_against_questions():
    sources = {
        "arm": Numbers(10, 3.0),
        "hand": Numbers(10, 1.0),
        "vqa": Numbers(10, 5.0, kind="questions"),
        "captions": Numbers(10, 5.0, kind="questions"),
    }
    assert weigh(sources) == {"arm": 3.0, "hand": 1.0, "vqa": 5.0, "captions": 5.0}
    assert weigh(sources, 0.8) == pytest.approx({"arm": 0.6, "hand": 0.2, "vqa": 0.1, "captions": 0.1})
    assert weigh(sources, "rt2-palm-e")["arm"] == pytest.approx(0.66 * 0.75)
    assert weigh(sources, 1.0)["vqa"] == 0
    even = weigh(sources, temperature=2.0)
    assert even["arm"] / even["hand"] == pytest.approx(3**0.5)
    counts = Mixture(sources, 0, weights=weigh(sources, "rt2-pali-x")).shares(PERIOD)
    assert counts["arm"].count + counts["hand"].count == PERIOD // 2


@pytest.mark.parametrize(
    ("share", "temperature", "match"),
    [
        (1.2, 1, "robot_share 1.2"),
        ("rt3", 1, "rt2-pali-x, rt2-palm-e"),
        (0.5, 1, "no source of kind questions"),
        (None, 0, "temperature"),
    ],
)
def test_shares_that_cannot_be_are_named(share, temperature, match):
    with pytest.raises(UserError, match=match):
        weigh({"arm": Numbers(10)}, share, temperature)
