"""Pictures with questions as a source."""

from __future__ import annotations

import collections
import functools
from pathlib import Path

import numpy as np

from vla.datasets.index import Columns, ShardIndex
from vla.datasets.pictures import Pictures
from vla.datasets.samples import Images, Question, QuestionSample
from vla.datasets.shards import decode_json
from vla.datasets.sources import Source, read_all
from vla.errors import Unreadable, UserError


class QuestionSource(Source[QuestionSample]):
    """Pictures with questions: one sample per picture, some of its questions drawn each time. Splits are by picture.

    A picture without questions is no sample.

    Args:
        types: question type -> how often it is drawn, relative to the others; those not named count 1.
        questions_per_image: how many questions of an image are drawn, all different (fewer where it has fewer): the image passes
            through the model once for all of them.
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
        self.types, self.questions_per_image = types or {}, questions_per_image

    @functools.cached_property
    def _table(self) -> Columns:
        """`types` [T] of questions and how many of each a picture has: `counts` [N, T]; what is `unreadable`, and `why`."""
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
    def _pictures(self) -> Pictures:
        return Pictures(self.index, self.card.spec.cameras, self._rows if self.cache else ())

    def questions(self, i: int) -> list[dict]:
        """All questions on picture i of the split: {"type", "question", "answer"}."""
        return _read_questions(self.index, int(self._rows[i]))

    def pictures(self, i: int) -> Images:
        """Picture i of the split as it is, by camera."""
        return self._pictures(int(self._rows[i]))

    def sample(self, i: int, rng: np.random.Generator, which: int | None = None) -> QuestionSample:
        """Picture i of the split with the drawn questions, or with question `which` of `questions(i)` alone."""
        known = self.questions(i)
        if which is None:
            weights = np.array([self.types.get(q["type"], 1.0) for q in known], np.float64)
            if not weights.sum():  # only a stream cannot leave such a picture out
                weights[:] = 1.0
            count = min(self.questions_per_image, int((weights > 0).sum()))
            chosen = [known[k] for k in rng.choice(len(known), count, replace=False, p=weights / weights.sum())]
        else:
            chosen = [known[which]]
        answers = [q["answer"] if isinstance(q["answer"], list) else [q["answer"]] for q in chosen]
        places = [tuple(part) for parts in answers for part in parts if isinstance(part, list)]
        images, moved = self._change(self.pictures(i), places, rng)
        points = iter(moved)
        said = [[next(points) if isinstance(part, list) else part for part in parts] for parts in answers]
        return QuestionSample(images, [Question(q["question"], a, q["type"]) for q, a in zip(chosen, said, strict=True)])


def _count_types(index: ShardIndex) -> Columns:
    found, wrong = read_all(len(index), lambda record: collections.Counter(q["type"] for q in _read_questions(index, record)))
    types = sorted(set().union(*found.values()))
    counts = np.zeros((len(index), len(types)), np.uint8)
    for record, kinds in found.items():
        counts[record] = [min(kinds[name], 255) for name in types]
    return {"types": np.array(types, np.str_), "counts": counts, **wrong}


def _read_questions(index: ShardIndex, record: int) -> list[dict]:
    return parse_questions(index.read(record, ("json",))["json"], index.where(record, "json"))


def parse_questions(data: bytes, where: str) -> list[dict]:
    """The `questions` of a JSON object: [{"type", "question", "answer"}]; Unreadable naming `where` if they are none."""
    questions = decode_json(data, where).get("questions")
    if not isinstance(questions, list):
        raise Unreadable("it holds no list of questions", where)
    for q in questions:
        complete = isinstance(q, dict) and isinstance(q.get("type"), str) and isinstance(q.get("question"), str)
        if not complete or not _is_answer(q.get("answer")):
            raise Unreadable(
                f"not a question: {q}", where, "it has type, question and answer: a word, or a list of words, points and integers"
            )
    return questions


def _is_answer(value: object) -> bool:
    def is_part(part: object) -> bool:
        place = isinstance(part, list) and len(part) == 2 and all(isinstance(c, int | float) for c in part)
        return isinstance(part, str | int) or place

    return isinstance(value, str) or (isinstance(value, list) and bool(value) and all(map(is_part, value)))
