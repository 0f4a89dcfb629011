"""Accuracy on per-image questions by type, on held-out images, and with the images blanked out."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from vla.datasets.questions import QuestionSource
from vla.datasets.samples import Question, QuestionSample
from vla.policies.base import QuestionAnswer
from vla.policies.local import LocalPolicy

NEAR = 0.05
"""A point is correct within this fraction of the image on both axes."""


@dataclasses.dataclass(frozen=True)
class AnsweredQuestion:
    """A question on images, the answer, and whether it is correct."""

    images: dict[str, np.ndarray]
    question: Question
    answer: QuestionAnswer
    correct: bool


def is_correct(question: Question, answer: QuestionAnswer) -> bool:
    """Whether an answer is correct: the same word, or a point within NEAR of the true one."""
    if question.point is None:
        return [answer.text] == question.answer
    return answer.point is not None and all(abs(a - b) <= NEAR for a, b in zip(answer.point, question.point, strict=True))


def balanced(source: QuestionSource, per_type: int, seed: int = 0) -> list[QuestionSample]:
    """Draws images with one question each, at most `per_type` of each type that the source draws, except lists.

    All answers of a type are equally frequent.
    """
    rng = np.random.default_rng(seed)
    candidates: dict[str, dict[str, list[tuple[int, int]]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    for i in rng.permutation(len(source)):
        for number, question in enumerate(source.questions(int(i))):
            answer = question["answer"]
            if source.types.get(question["type"], 1) > 0 and (isinstance(answer, str) or len(answer) == 1):
                candidates[question["type"]][answer if isinstance(answer, str) else ""].append((int(i), number))
    chosen = []
    for answers in candidates.values():
        each = min(min(map(len, answers.values())), max(per_type // len(answers), 1))
        # There may be more answers than questions to ask.
        chosen += [pair for pairs in answers.values() for pair in pairs[:each]][:per_type]
    return [source.sample(i, rng, number) for i, number in chosen]


def vqa_answers(policy: LocalPolicy, samples: list[QuestionSample], blank: bool = False) -> list[AnsweredQuestion]:
    """Asks the policy the first question of each sample; `blank` replaces the images by grey ones."""
    images = [{k: np.full_like(v, 128) for k, v in sample.images.items()} if blank else sample.images for sample in samples]
    questions = [sample.questions[0] for sample in samples]
    answers = policy.ask(images, [question.text for question in questions])
    return [
        AnsweredQuestion(sample.images, question, answer, is_correct(question, answer))
        for sample, question, answer in zip(samples, questions, answers, strict=True)
    ]


def correct_by_type(answered: list[AnsweredQuestion]) -> dict[str, np.ndarray]:
    """Returns type of question -> whether each answer is correct, bool [n], in the given order."""
    by_type: dict[str, list[bool]] = collections.defaultdict(list)
    for item in answered:
        by_type[item.question.type].append(item.correct)
    return {kind: np.array(correct, bool) for kind, correct in by_type.items()}
