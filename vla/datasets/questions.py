"""Images with questions as a source."""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

import numpy as np

from vla.datasets.images import ImageStore
from vla.datasets.index import Columns, ShardIndex
from vla.datasets.samples import Images, Question, QuestionSample
from vla.datasets.shards import decode_json
from vla.datasets.sources import Source, read_all
from vla.errors import Unreadable, UserError
from vla.transforms import Point

AnswerPart = str | int | list[float]
"""A word, an integer, or a point [u, v]."""


class QuestionRecord(TypedDict):
    """A question as saved; its answer is a word or a list of parts."""

    type: str
    question: str
    answer: str | list[AnswerPart]


class QuestionSource(Source[QuestionSample]):
    """Images with questions. A sample is one image and some of its questions, drawn anew each time.

    Splits are by image. An image without questions is not a sample.

    Args:
        types: question type -> its relative frequency; 1 for types that are not named.
        questions_per_image: number of different questions drawn per image, or all if it has fewer. The image passes through the
            model once for all of them.
    """

    kind = "questions"

    def __init__(
        self,
        folder: str | Path,
        weight: float = 1.0,
        loss_weight: float = 1.0,
        types: dict[str, float] | None = None,
        questions_per_image: int = 1,
        **kwargs,
    ):
        super().__init__(folder, weight, loss_weight, **kwargs)
        if questions_per_image < 1:
            raise UserError(f"questions_per_image {questions_per_image}", str(folder), "draw at least 1")
        if types and min(types.values()) < 0:
            raise UserError(f"types {types}", str(folder), "give each at least 0")
        self.types, self.questions_per_image = types or {}, questions_per_image

    @functools.cached_property
    def _table(self) -> Columns:
        """The `types` [T] of questions, their `counts` [N, T] per image, and the `unreadable` records with `why`."""
        return self.index.columns("questions", lambda: _count_types(self.index))

    @property
    def _left_out(self) -> tuple[np.ndarray, np.ndarray]:
        return self._table["unreadable"], self._table["why"]

    def _all_rows(self) -> np.ndarray:
        # The split comes first: it must not depend on which types are drawn.
        with_questions = np.flatnonzero(self._table["counts"].sum(1))
        part = with_questions[self._part(len(with_questions))]
        drawn = np.array([self.types.get(str(name), 1) > 0 for name in self._table["types"]], bool)
        return part[self._table["counts"][part][:, drawn].any(1)]

    @property
    def _records(self) -> np.ndarray:
        return self._rows

    @functools.cached_property
    def _images(self) -> ImageStore:
        return ImageStore(self.index, self.card.spec.cameras, self._rows if self.cache else ())

    def questions(self, i: int) -> list[QuestionRecord]:
        """All questions on image i of the split, as saved."""
        return _read_questions(self.index, int(self._rows[i]))

    def images(self, i: int) -> Images:
        """Image i of the split by camera, not augmented."""
        return self._images(int(self._rows[i]))

    def sample(self, i: int, rng: np.random.Generator, which: int | None = None) -> QuestionSample:
        """Image i of the split with randomly drawn questions, or with question `which` of `questions(i)` alone."""
        questions = self.questions(i)
        if which is None:
            weights = np.array([self.types.get(q["type"], 1.0) for q in questions], np.float64)
            if not weights.sum():  # only possible in a stream, which cannot leave such an image out
                weights[:] = 1.0
            count = min(self.questions_per_image, int((weights > 0).sum()))
            drawn = [questions[k] for k in rng.choice(len(questions), count, replace=False, p=weights / weights.sum())]
        else:
            drawn = [questions[which]]
        points = points_in(drawn)
        if points and not self.keeps_points:
            raise self.points_are_elsewhere()
        images, points = self._augmented(self.images(i), points, rng)
        return QuestionSample(images, with_points(drawn, points))


def points_in(questions: Iterable[QuestionRecord]) -> list[Point]:
    """The points in the answers to some questions, in order."""
    return [(part[0], part[1]) for q in questions for part in _parts(q["answer"]) if isinstance(part, list)]


def with_points(questions: Iterable[QuestionRecord], points: Iterable[Point]) -> list[Question]:
    """The questions with these points, in order, in place of the saved ones."""
    moved = iter(points)
    answers = [(q, [next(moved) if isinstance(part, list) else part for part in _parts(q["answer"])]) for q in questions]
    return [Question(q["question"], answer, q["type"]) for q, answer in answers]


def _parts(answer: str | list[AnswerPart]) -> list[AnswerPart]:
    return answer if isinstance(answer, list) else [answer]


def _count_types(index: ShardIndex) -> Columns:
    counters, unreadable = read_all(
        len(index), lambda record: collections.Counter(q["type"] for q in _read_questions(index, record))
    )
    types = sorted(set().union(*counters.values()))
    counts = np.zeros((len(index), len(types)), np.uint8)
    for record, counter in counters.items():
        counts[record] = [min(counter[name], 255) for name in types]
    return {"types": np.array(types, np.str_), "counts": counts, **unreadable}


def _read_questions(index: ShardIndex, record: int) -> list[QuestionRecord]:
    return parse_questions(index.read(record, ("json",))["json"], index.where(record, "json"))


def parse_questions(data: bytes, where: str, optional: bool = False) -> list[QuestionRecord]:
    """Reads the `questions` of a JSON object; Unreadable naming `where` if it has none (unless `optional`) or one is invalid."""
    questions = decode_json(data, where).get("questions", [] if optional else None)
    if not isinstance(questions, list):
        raise Unreadable("it holds no list of questions", where)
    for q in questions:
        complete = isinstance(q, dict) and isinstance(q.get("type"), str) and isinstance(q.get("question"), str)
        if not complete or not _is_answer(q.get("answer")):
            raise Unreadable(
                f"not a question: {q}",
                where,
                "give a type, a question and an answer: a word, or a list of words, points and integers",
            )
    return questions


def _is_answer(value: object) -> bool:
    def is_part(part: object) -> bool:
        point = isinstance(part, list) and len(part) == 2 and all(isinstance(c, int | float) for c in part)
        return isinstance(part, str | int) or point

    return isinstance(value, str) or (isinstance(value, list) and bool(value) and all(map(is_part, value)))
