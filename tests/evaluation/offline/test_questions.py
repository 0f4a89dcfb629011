"""Accuracy on held-out questions."""

import numpy as np
import pytest

from vla.datasets.card import DatasetCard
from vla.datasets.questions import QuestionSource
from vla.datasets.shards import ShardWriter
from vla.errors import UserError
from vla.evaluation.offline.questions import question_accuracy
from vla.models.load import load_vlm
from vla.policies.local import LocalPolicy
from vla.policies.vqa_accuracy import balanced
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME


@pytest.fixture
def policy(vlm, seeing):
    return LocalPolicy(*load_vlm(vlm), seeing.contract, batch=4)


def test_types_that_were_trained_are_asked_on_held_out_images(policy, data):
    # Three of twelve images are held out. Lists and several integers have no single answer.
    source = QuestionSource(data / "questions", holdout=0.25)
    rates = question_accuracy(policy, source)
    assert {kind: one["n"] for kind, one in rates.items()} == {"colour": 3, "where": 3}
    assert all(0 <= one["low"] <= one["rate"] <= one["high"] <= 1 for one in rates.values())
    source = QuestionSource(data / "questions", holdout=0.25, types={"where": 0.0})
    assert {kind: one["n"] for kind, one in question_accuracy(policy, source, 2).items()} == {"colour": 2}


def test_what_cannot_be_asked_is_said(policy, seeing, data):
    source = QuestionSource(data / "questions", holdout=0.25)
    with pytest.raises(UserError, match="the policy answers no questions"):
        question_accuracy(seeing(), source)
    source.types = {"where": 0.0, "colour": 0.0}
    with pytest.raises(UserError, match="no held-out question has a single answer"):
        question_accuracy(policy, source)


def test_more_answers_than_questions_to_ask(tmp_path):
    """As in open questions, where nearly every answer is another one."""
    image = {f"{c.name}.jpg": np.zeros((64, 64, 3), np.uint8) for c in EMBODIMENT.cameras}
    with ShardWriter(tmp_path) as writer:
        for i in range(6):
            asked = [{"type": "open", "question": "what is it", "answer": f"thing {i}"}]
            writer.write(f"q{i:06d}", {**image, "json": {"questions": asked}})
    DatasetCard("open", "questions", EMBODIMENT_NAME, EMBODIMENT).save(tmp_path)
    assert len(balanced(QuestionSource(tmp_path), 4)) == 4
