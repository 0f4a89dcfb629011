"""Samples and observations to masked sequences, and back."""

import dataclasses

import numpy as np
import pytest
from encoders import acting, changed, source_looking_back

from vla.datasets.robot import RobotSource
from vla.datasets.samples import Question, QuestionSample
from vla.errors import UserError
from vla.observation import Observation
from vla.policies.local import LocalPolicy
from vla.sim.tabletop.embodiment import EMBODIMENT
from vla.tokenization.sequence import Role


def test_robot_sequence_scores_what_is_to_be_written_and_no_padding(examples, data):
    source = RobotSource(data / "robot", chunk=3)
    sample = source.sample(4, np.random.default_rng(0))  # one more step follows
    example = examples.robot(sample)
    sequence = example.sequence
    written = sequence.ids[sequence.prefix :]
    assert len(written) == 2 + 3 * 8 and sequence.loss.sum() == 2 + 2 * 8
    assert not sequence.loss[: sequence.prefix].any() and not sequence.loss[-8:].any()
    chunk = examples.chunk(written)
    half = (np.array(EMBODIMENT.action.high) - EMBODIMENT.action.low) / 512
    assert (abs(chunk.actions[:2] - sample.actions[:2]) <= half + 1e-6).all()
    assert chunk.terminate.tolist()[:2] == [False, True] and (chunk.actions[:, 3:5] == 0).all()
    assert np.allclose(chunk.info["point"], (0.5, 0.25), atol=1 / 64)
    assert all(i in legal for i, legal in zip(written.tolist(), examples.grammar.allowed(), strict=True))


def test_questions_on_a_robots_images_are_branches_before_its_actions(examples, data):
    sample = RobotSource(data / "robot", chunk=3).sample(4, np.random.default_rng(0))
    asked = [Question("what is held", ["nothing"], "held"), Question("where is it", [(0.5, 0.5)], "where")]
    plain, both = examples.robot(sample), examples.robot(dataclasses.replace(sample, questions=asked))
    sequence, last = both.sequence, both.sequence.branch == 3
    acting, asking = sequence[last | (sequence.branch == 0)], sequence[~last]
    assert np.array_equal(acting.ids, plain.sequence.ids) and np.array_equal(acting.loss, plain.sequence.loss)
    assert both.actions == plain.actions and last[-1] and sequence.branch.max() == 3
    alone = examples.question(QuestionSample(sample.images, asked)).sequence
    assert np.array_equal(asking.ids, alone.ids) and np.array_equal(asking.loss, alone.loss)
    before = changed(examples, prompt="to {instruction}: {images} {state}")
    assert before.robot(sample)
    with pytest.raises(UserError, match="several questions before the same images"):
        before.robot(dataclasses.replace(sample, questions=asked))


def test_history_is_unseen_before_an_episode_begins(looking_back, data):
    _, examples = looking_back
    source = source_looking_back(data, examples)
    plain = RobotSource(data / "robot", chunk=3)
    rng = np.random.default_rng(0)
    for step, there in ((0, [False, False]), (1, [False, False]), (2, [False, True]), (3, [False, True]), (5, [True, True])):
        sample = source.sample(step, rng)
        assert [frame is not None for frame in sample.past] == there
        if there[1]:
            before = plain.sample(step - 2, rng).images
            assert all(np.array_equal(sample.past[1][name], before[name]) for name in before)
        example = examples.robot(sample)
        # Two cameras of 64 and 16 tokens, three times.
        roles = example.sequence.roles[: 3 * 80]
        seen = np.repeat([*there, True], 80)
        assert np.array_equal(roles == Role.IMAGE, seen) and np.array_equal(roles == Role.ABSENT, ~seen)
        batch = examples.batch([example])
        assert batch.inputs.attention[0, : 3 * 80].tolist() == seen.tolist()
        assert batch.inputs.images["pixel_values"].shape == (1, 6, 3, 64, 64)


def test_the_past_in_a_sample_is_what_a_policy_has_seen(looking_back, data):
    """Acting at every second step gives the model what training showed it."""
    model, examples = looking_back
    policy = LocalPolicy(model, examples.family.processor, examples.contract)
    source = source_looking_back(data, examples)
    written = []
    policy._write = lambda rows, **how: written.append(rows[0]) or real(rows, **how)
    real = LocalPolicy._write.__get__(policy)
    for _ in range(2):
        policy.reset(["a"])
        for step in (0, 2, 4):
            sample = source.sample(step, np.random.default_rng(0))
            policy.act([Observation("a", sample.images, sample.state, sample.instruction)])
            trained = examples.robot(sample)
            prompt = trained.sequence[: trained.sequence.prefix]
            assert np.array_equal(written[-1].sequence.roles, prompt.roles)
            pairs = zip(written[-1].images, trained.images, strict=True)
            assert all((a is None and b is None) or np.array_equal(a, b) for a, b in pairs)
    assert not policy._history.keys() - {"a"} and len(policy._history["a"]) == 2


def test_an_image_from_elsewhere_needs_one_camera(examples):
    image = {"front": np.zeros((32, 48, 3), np.uint8)}
    example = examples.question(QuestionSample(image, [Question("what is it", ["a cat"], "caption")]))
    assert (example.sequence.roles == Role.ABSENT).sum() == 16 and example.images[1] is None
    assert examples.batch([example]).inputs.images["pixel_values"].shape == (1, 2, 3, 64, 64)
    with pytest.raises(UserError, match="no image of camera front, wrist; got"):
        examples.question(QuestionSample({"roof": image["front"]}, [Question("what is it", ["a cat"], "caption")]))


def test_a_chat_is_one_sequence_like_any_other(vlm, data):
    model, examples = acting(vlm, data, "uniform")
    tokenizer = examples.family.processor.tokenizer
    tokenizer.chat_template = (
        "{% for m in messages %}<bos>{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %}<eos>{% endif %}"
    )
    chatting = changed(examples, chat=True)
    sample = RobotSource(data / "robot", chunk=3).sample(0, np.random.default_rng(0))
    plain, chat = examples.robot(sample).sequence, chatting.robot(sample).sequence
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    without = chat.ids[(chat.ids != bos) & (chat.ids != eos)]
    assert np.array_equal(without, plain.ids) and chat.ids[0] == bos and len(chat) == len(plain) + 2
    question = QuestionSample(
        sample.images, [Question("what is it", ["red"], "colour"), Question("where is it", [(0.5, 0.5)], "where")]
    )
    sequence = chatting.question(question).sequence
    assert (sequence.ids == bos).sum() == 1 and sequence.branch.max() == 2
