"""Sequences to padded tensors: what is unseen, written at once, or after the words."""

import dataclasses

import numpy as np
import pytest
import torch
from encoders import acting, source_looking_back

from vla.datasets.robot import RobotSource
from vla.datasets.samples import Question, QuestionSample
from vla.errors import UserError
from vla.models.decoding.decode import write
from vla.observation import Observation
from vla.policies.local import LocalPolicy
from vla.tokenization.sequence import Role


def test_what_is_unseen_changes_nothing(looking_back, data):
    model, examples = looking_back
    sample = source_looking_back(data, examples).sample(2, np.random.default_rng(0))
    batch = examples.batch([examples.robot(sample)])

    def logits(pixels):
        inputs = dataclasses.replace(batch.inputs, images={"pixel_values": pixels})
        with torch.inference_mode():
            return examples.family.score(model, inputs, batch.labels != -100)

    pixels = batch.inputs.images["pixel_values"]
    other = pixels.clone()
    other[:, :2] = 1
    assert torch.equal(logits(pixels), logits(other))
    other[:, 2:4] = 1
    assert not torch.allclose(logits(pixels), logits(other))


@pytest.mark.parametrize("block", ["causal", "bidirectional"])
def test_a_chunk_is_trained_and_written_at_once(vlm, data, block):
    """What the model is told while it learns is what it is told when it acts: the same losses, from either side."""
    model, examples = acting(vlm, data, "uniform", block=block)
    sample = RobotSource(data / "robot", chunk=3).sample(4, np.random.default_rng(0))  # one more step follows
    example = examples.robot(sample)
    batch, tokens = examples.batch([example]), 3 * 8
    end = len(example.sequence)
    assert (batch.inputs.ids[0, end - tokens : end] == examples.tokenizer.pad_token_id).all()
    assert batch.labels[0, end - tokens : end - 8].tolist() == example.sequence.ids[end - tokens : end - 8].tolist()
    assert (batch.labels[0, end - 8 : end] == -100).all() and batch.inputs.attention[0, end - tokens : end].all()
    with torch.inference_mode():
        logits = examples.family.score(model, batch.inputs, torch.ones_like(batch.labels, dtype=torch.bool))
    # Acting, with the truth for the plan, since what is written after it depends on it.
    prompt = dataclasses.replace(example, sequence=example.sequence[: example.sequence.prefix], block=0)
    how = examples.grammar.writing()
    how["allowed"] = [[i] for i in example.sequence.ids[example.sequence.prefix : end - tokens].tolist()]
    out = write(examples.family.session(model, examples.batch([prompt], 1).inputs), **how)
    places = examples.codec().positions()
    for place, symbols in enumerate(places):
        told = logits[end - tokens - 1 + place, examples.vocabulary.symbols_to_ids(symbols)].log_softmax(-1).max()
        assert torch.allclose(told, out.logprobs[0, 2 + place], atol=1e-4)
    (chunk,) = LocalPolicy(model, examples.family.processor, examples.contract).act(
        [Observation("a", sample.images, sample.state, "go")]
    )
    assert not chunk.status and chunk.actions.shape == (3, 7)


def test_images_may_follow_the_words(vlm, data):
    model, examples = acting(
        vlm, data, "uniform", prompt="to {instruction}: {images} state: {state} A:", question="{question} {images}"
    )
    sample = RobotSource(data / "robot", chunk=3).sample(0, np.random.default_rng(0))
    example = examples.robot(sample)
    images = np.flatnonzero(example.sequence.roles == Role.IMAGE)
    assert images[0] > 5 and (example.sequence.branch == (np.arange(len(example.sequence)) > images[-1])).all()
    inputs = examples.batch([example]).inputs
    with torch.inference_mode():
        fed = {"attention_mask": inputs.attention, "prefix_mask": inputs.group, **inputs.images}
        told = model(inputs.ids, **fed, branch_ids=inputs.branch).logits[inputs.attention]
        assert torch.allclose(told, model(inputs.ids, **fed).logits[inputs.attention], atol=1e-5)
    assert LocalPolicy(model, examples.family.processor, examples.contract).act(
        [Observation("a", sample.images, sample.state, "go")]
    )
    asked = [Question("what is it", ["red"], "colour"), Question("where is it", [(0.5, 0.5)], "where")]
    assert examples.question(QuestionSample(sample.images, asked[:1])).sequence.loss.sum() == 2
    with pytest.raises(UserError, match="several questions before the same images"):
        examples.question(QuestionSample(sample.images, asked))
