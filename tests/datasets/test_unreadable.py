"""Unreadable records: named, left out and replaced, up to a limit, in the same way in every process."""

import pickle

import numpy as np
import pytest

from vla.datasets.mixture import Mixture
from vla.datasets.questions import QuestionSource
from vla.datasets.robot import RobotSource
from vla.datasets.shards import ShardWriter
from vla.datasets.sources import STAND_INS, read
from vla.datasets.stream import QuestionStream
from vla.errors import UserError

RNG = np.random.default_rng(0)


@pytest.fixture
def spoilt(make, tmp_path):
    """Episode 3 has six steps: the record of its third step is unreadable, and an image of its fifth."""

    def spoil(members):
        key = members["json"]["episode"], members["json"]["step"]
        return members | {(3, 2): {"action.npy": b"rubbish"}, (3, 4): {"wrist.jpg": b"nothing"}}.get(key, {})

    return make(tmp_path / "spoilt", change=spoil)


def test_a_record_that_cannot_be_read_is_a_gap_in_its_episode(spoilt):
    for _ in range(2):  # read, and then from the cache
        source = RobotSource(spoilt, chunk=4)
        assert len(source) == 44
        ((where, why),) = source.unreadable.items()
        assert where.endswith("e000003_s0002") and "shard-00000" in where and why.startswith("not an array")
    samples = {sample.step: sample for sample in (read(source, i, 0)[0] for i in range(44)) if sample.episode == 3}
    assert {step: int(sample.mask.sum()) for step, sample in samples.items()} == {0: 2, 1: 1, 3: 3, 5: 1}


def test_the_next_sample_replaces_it_in_every_process(spoilt):
    one = Mixture({"robot": RobotSource(spoilt, chunk=1, first_steps=6, first_times=3)}, 0)
    other = pickle.loads(pickle.dumps(Mixture({"robot": RobotSource(spoilt, chunk=1, first_steps=6, first_times=3)}, 0)))
    results = [one.read(t) for t in range(400)]
    again = {t: other.read(t) for t in np.random.default_rng(1).permutation(400)}
    for t, (_, sample, wrong) in enumerate(results):
        assert (sample.episode, sample.step) == (again[t][1].episode, again[t][1].step) and len(wrong) == len(again[t][2])
        if wrong:
            assert (sample.episode, sample.step) == (3, 5) and {e.where.rpartition(", ")[2] for e in wrong} == {
                "e000003_s0004.wrist.jpg"
            }
    assert sum(bool(wrong) for *_, wrong in results) >= 3


def test_a_question_that_cannot_be_read_is_no_sample(questions_folder, tmp_path):
    from vla.datasets.index import ShardIndex

    index = ShardIndex(questions_folder)
    with ShardWriter(tmp_path) as writer:
        for i, key in enumerate(index.keys):
            writer.write(key, {**index.read(i), **({"json": b"{"} if i == 4 else {})})
    (tmp_path / "card.yaml").write_bytes((questions_folder / "card.yaml").read_bytes())
    source = QuestionSource(tmp_path)
    assert len(source) == 18 and [where[-7:] for where in source.unreadable] == ["q000004"]
    # In a stream, it is found when it is read.
    stream = QuestionStream(f"pipe:cat {tmp_path}/shard-000000.tar", {"front": "front.jpg"}, fetched=str(tmp_path / "here"))
    sample, (wrong,) = read(stream, 4, 0)
    assert sample.questions[0].text.endswith(" 5") and wrong.where.endswith("q000004.json") and wrong.what.startswith("not JSON")


def test_more_than_is_tolerated_is_an_error_that_names_the_first(make, tmp_path):
    def spoil(members):
        return (
            {**members, "action.npy": b"rubbish"} if members["json"]["step"] < 2 and members["json"]["episode"] < 6 else members
        )

    folder = make(tmp_path, change=spoil)
    with pytest.raises(
        UserError, match=r"(?s)12 samples of 45 cannot be read.*e000000_s0000: not an array.*e000000_s0001.*tolerate"
    ):
        len(RobotSource(folder, chunk=1))
    assert len(RobotSource(folder, chunk=1, tolerate=0.3)) == 33
    with pytest.raises(UserError, match="tolerate 2"):
        RobotSource(folder, tolerate=2)


def test_a_source_of_which_nothing_can_be_read_is_an_error_too(make, tmp_path):
    source = RobotSource(make(tmp_path, change=lambda members: {**members, "front.jpg": b""}), chunk=1, tolerate=1.0)
    with pytest.raises(UserError, match=rf"e000000_s0003?.*cannot be decoded.*the {STAND_INS} samples after it cannot be"):
        read(source, 0, 0)
