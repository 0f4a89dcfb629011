"""Question accuracy by type on held-out pictures, also with the pictures blanked out."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from vla.datasets.questions import QuestionSource
from vla.datasets.samples import Question, QuestionSample
from vla.policies.local import Answer, LocalPolicy

NEAR = 0.05
"""A place is right within this share of the picture on both axes."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question, what was answered and whether that is right."""

    images: dict[str, np.ndarray]
    question: Question
    answer: Answer
    correct: bool


def right(question: Question, answer: Answer) -> bool:
    """Whether an answer is right: the same word, or a place within NEAR of the truth."""
    if question.point is None:
        return [answer.text] == question.answer
    return answer.point is not None and all(abs(a - b) <= NEAR for a, b in zip(answer.point, question.point, strict=True))


def balanced(source: QuestionSource, per_type: int, seed: int = 0) -> list[QuestionSample]:
    """Pictures with one question each, up to `per_type` of each type but lists.

    Every answer of a type comes as often as the rarest one allows.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, dict[str, list[tuple[int, int]]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    for i in rng.permutation(len(source)):
        for which, question in enumerate(source.questions(int(i))):
            answer = question["answer"]
            if isinstance(answer, str) or len(answer) == 1:
                found[question["type"]][answer if isinstance(answer, str) else ""].append((int(i), which))
    chosen = []
    for answers in found.values():
        each = min(min(map(len, answers.values())), max(per_type // len(answers), 1))
        chosen += [place for places in answers.values() for place in places[:each]]
    return [source.sample(i, rng, which) for i, which in chosen]


def vqa_answers(policy: LocalPolicy, samples: list[QuestionSample], blank: bool = False) -> list[Asked]:
    """Asks the model each sample's first question; `blank` shows it an even grey instead of the pictures."""
    pictures = [{k: np.full_like(v, 128) for k, v in sample.images.items()} if blank else sample.images for sample in samples]
    questions = [sample.questions[0] for sample in samples]
    answers = policy.ask(pictures, [question.text for question in questions])
    return [
        Asked(sample.images, question, answer, right(question, answer))
        for sample, question, answer in zip(samples, questions, answers, strict=True)
    ]


def right_by_type(asked: list[Asked]) -> dict[str, np.ndarray]:
    """Type of question -> whether each answer was right, bool [n], in the order of asking."""
    by_type: dict[str, list[bool]] = collections.defaultdict(list)
    for one in asked:
        by_type[one.question.type].append(one.correct)
    return {kind: np.array(right, bool) for kind, right in by_type.items()}
