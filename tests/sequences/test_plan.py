"""Plans: written, left out, given, and read back; modes."""

import dataclasses

import numpy as np
import pytest
from encoders import changed

from vla.datasets.robot import RobotSource
from vla.errors import UserError
from vla.models.decoding.allowed import Free
from vla.observation import Observation
from vla.sequences.encode import Encoder


def test_plan_stands_before_the_actions_and_comes_back(examples, data):
    planning = Encoder(dataclasses.replace(examples.contract, plan=("where", "reach")), examples.family)
    sample = RobotSource(data / "robot", chunk=3).sample(0, np.random.default_rng(0))
    sequence = planning.robot(sample).sequence
    written = sequence.ids[sequence.prefix :]
    chunk = planning.chunk(written)
    assert len(written) == 2 + 4 + 3 * 8 and chunk.info["reach"] == [10, 20, 30, 40]
    assert np.array_equal(chunk.actions, examples.chunk(examples.robot(sample).sequence.ids[-26:]).actions)
    assert all(i in legal for i, legal in zip(written.tolist(), planning.grammar.allowed(), strict=True))
    unknown = planning.robot(dataclasses.replace(sample, offset=None)).sequence
    assert len(unknown) == len(sequence) and unknown.loss.sum() == sequence.loss.sum() - 4


def test_words_of_a_plan_are_filled_up_and_come_back(examples, data):
    planning = changed(examples, plan=("words", "where"), words=16, modes=("think", "follow"))
    sample = RobotSource(data / "robot", chunk=3).sample(0, np.random.default_rng(0))
    said = dataclasses.replace(sample, target="the red cube, 2 left of <eos>")
    sequence = planning.robot(said).sequence
    written, scored = sequence.ids[sequence.prefix :], sequence.loss[sequence.prefix :]
    chunk, end = planning.chunk(written), planning.vocabulary.eos_id
    assert chunk.plan["words"] == said.target and np.allclose(chunk.plan["point"], (0.5, 0.25), atol=1 / 64)
    count = written.tolist().index(end)
    assert len(written) == 16 + 2 + 3 * 8 and (written[count:16] == end).all()
    assert scored[: count + 1].all() and not scored[count + 1 : 16].any() and scored[16:].all()
    assert planning.grammar.allowed()[:16] == [Free(end)] * 16 and np.array_equal(
        chunk.actions, examples.chunk(written[-26:]).actions
    )
    # A given one stands in the prompt as it is.
    asked = planning.act(Observation("", sample.images, sample.state, sample.instruction, plan=chunk.plan)).sequence
    following = planning.robot(dataclasses.replace(said, mode="follow")).sequence
    assert (
        np.array_equal(asked.ids, following.ids[: following.prefix])
        and asked.ids[-2 - count : -2].tolist() == written[:count].tolist()
    )
    # What is not known keeps its places, unscored; what is too long says so.
    unknown = planning.robot(dataclasses.replace(sample, target="")).sequence
    assert len(unknown) == len(sequence) and unknown.loss.sum() == 2 + 3 * 8
    with pytest.raises(UserError, match="contract.words") as error:
        planning.robot(dataclasses.replace(sample, target="red cube " * 20))
    assert "a plan of" in str(error.value)


def test_a_mode_says_what_becomes_of_the_plan(examples, data):
    """Written, left out, or given in the prompt; the actions are the same."""
    several = changed(examples, modes=("think", "act", "follow"))
    source = RobotSource(data / "robot", chunk=3)
    sample = source.sample(0, np.random.default_rng(0))
    sequences = {mode: several.robot(dataclasses.replace(sample, mode=mode)).sequence for mode in ("think", "act", "follow")}
    assert np.array_equal(sequences["think"].ids, examples.robot(sample).sequence.ids)
    assert np.array_equal(several.robot(sample).sequence.ids, sequences["think"].ids)
    point = several.vocabulary.point_to_ids(0.5, 0.25)
    for mode, sequence in sequences.items():
        written = sequence.ids[sequence.prefix :]
        assert len(written) == 24 + 2 * (mode == "think")
        legal = several.grammar.allowed("", mode)
        assert all(i in ids for i, ids in zip(written.tolist(), legal, strict=True))
        chunk = several.chunk(written, "", mode)
        assert ("point" in chunk.info) == (mode == "think")
        assert np.array_equal(chunk.actions, several.chunk(sequences["act"].ids[-24:], "", "act").actions)
    prompts = {mode: sequence.ids[: sequence.prefix].tolist() for mode, sequence in sequences.items()}
    assert prompts["follow"][-2:] == list(point) and len(set(map(tuple, prompts.values()))) == 3


def test_a_plan_that_an_observation_brings_is_followed(examples, data):
    several = changed(examples, modes=("think", "follow"))
    sample = RobotSource(data / "robot", chunk=3).sample(0, np.random.default_rng(0))
    seen = Observation("a", sample.images, sample.state, sample.instruction, plan={"point": sample.point})
    asked = several.act(seen).sequence
    trained = several.robot(dataclasses.replace(sample, mode="follow", offset=None)).sequence
    assert np.array_equal(asked.ids, trained.ids[: trained.prefix])
    with pytest.raises(UserError, match="not trained to follow"):
        examples.act(seen)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"modes": ("follow", "act")}, "not follow first"),
        ({"modes": ("think",), "plan": ()}, "modes think with plan none"),
        ({"modes": ("act", "act")}, "at most once"),
        ({"history": 0}, "history 0"),
    ],
)
def test_modes_and_histories_that_cannot_be_are_named(examples, fields, match):
    with pytest.raises(UserError, match=match):
        changed(examples, **fields)
