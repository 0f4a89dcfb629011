"""Sources: what one draw from a data set is. Chunks are assembled when read, from the following steps of the episode."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np

from vla.datasets.card import DatasetCard
from vla.datasets.index import ShardIndex
from vla.datasets.pictures import Pictures
from vla.datasets.shards import decode_json
from vla.datasets.steps import Steps, read_steps
from vla.errors import UserError
from vla.transforms import Augmentation, Point

Images = dict[str, np.ndarray]
T = TypeVar("T")


@dataclasses.dataclass
class RobotItem:
    """One step of an episode and the K actions from there on.

    Attributes:
        images: camera name -> upright RGB, uint8 [H, W, 3].
        state: float32 [S].
        actions: float32 [K, A], in the card's units; past the end of the episode the last one is repeated.
        mask: bool [K], False past the end.
        terminate: bool [K], True where the task is done.
        point: where the named object is in the first camera's picture, or None.
        reach: how far it is from the gripper and how far to turn: four integers of 256 even steps, or None.
    """

    images: Images
    state: np.ndarray
    actions: np.ndarray
    mask: np.ndarray
    terminate: np.ndarray
    instruction: str
    target: str
    point: Point | None
    reach: tuple[int, ...] | None
    episode: int
    step: int
    embodiment: str


@dataclasses.dataclass
class Question:
    """A question on a picture.

    Attributes:
        text: the question.
        answer: what is to be written, in order: words, points of the first camera's picture, and integers as actions have them.
        type: of the question, by which accuracies are told apart.
    """

    text: str
    answer: list[str | int | Point]
    type: str

    @property
    def point(self) -> Point | None:
        """The place that is asked for, if the answer is one."""
        return self.answer[0] if len(self.answer) == 1 and isinstance(self.answer[0], tuple) else None


@dataclasses.dataclass
class QuestionItem:
    """Pictures and questions on them."""

    images: Images
    questions: list[Question]


class Source(Generic[T]):
    """A data set as a mixture draws from it. Making one touches no file; it is opened at its first use.

    Args:
        folder: holds `card.yaml` and `shard-*.tar`.
        weight: share of the draws, relative to the other sources of a mixture.
        lead: so many first samples of a run are of this source alone: what is easy, before what needs it.
        loss_weight: what the loss of its tokens is multiplied by.
        split: "val" is the last `holdout` share (at least one), "train" the rest, "all" both.
        holdout: share of the episodes, or pictures, that is kept back.
        cache: whether decoded pictures are kept in memory (12 KiB per 64-pixel picture).
        augment: applied in order: (images, point, rng) -> (images, point).
    """

    kind = ""

    def __init__(
        self,
        folder: str | Path,
        weight: float = 1.0,
        loss_weight: float = 1.0,
        split: Literal["train", "val", "all"] = "all",
        holdout: float = 0.1,
        cache: bool = False,
        augment: Sequence[Augmentation] = (),
        lead: int = 0,
    ):
        if split not in ("train", "val", "all") or not 0 < holdout < 1:
            raise UserError(f"split {split!r}, holdout {holdout}", str(folder), "train, val or all; a share between 0 and 1")
        self.folder, self.weight, self.loss_weight = Path(folder), weight, loss_weight
        self.split, self.holdout, self.cache, self.augment, self.lead = split, holdout, cache, list(augment), lead

    def __getstate__(self) -> dict:
        # A spawned worker opens the data set itself: cheaper than sending it the pictures.
        opened = ("card", "index", "_rows", "_pictures", "_table")
        return {name: value for name, value in self.__dict__.items() if name not in opened}

    def __len__(self) -> int:
        return len(self._rows)

    def item(self, i: int, rng: np.random.Generator) -> T:
        """Sample i of the split; whatever is drawn in it comes from `rng`."""
        raise NotImplementedError

    @functools.cached_property
    def card(self) -> DatasetCard:
        """The data set's card; UserError where it is of another kind of data."""
        card = DatasetCard.load(self.folder)
        if card.kind != self.kind:
            raise UserError(f"a {card.kind} data set, not {self.kind}", str(self.folder), "use RobotSource or QuestionSource")
        return card

    @functools.cached_property
    def index(self) -> ShardIndex:
        # The card first: its message about a wrong folder or kind is the clearer one.
        _ = self.card
        return ShardIndex(self.folder)

    @property
    def _rows(self) -> np.ndarray:
        """Which rows of the data set are in the split."""
        raise NotImplementedError

    def _part(self, count: int) -> slice:
        """Which of `count` episodes or pictures are in the split."""
        middle = count - max(round(count * self.holdout), 1)
        if self.split != "all" and middle < 1:
            raise UserError(f"{count} episodes or pictures are too few to hold some back", str(self.folder), "use split: all")
        return {"train": slice(0, middle), "val": slice(middle, count), "all": slice(0, count)}[self.split]

    def _change(self, images: Images, points: list[Point], rng: np.random.Generator) -> tuple[Images, list[Point]]:
        for augment in self.augment:
            images, points = augment(images, points, rng)
        return images, points


class RobotSource(Source[RobotItem]):
    """Robot episodes: one sample per step, with the actions from there on. Splits are by episode.

    Args:
        chunk: K, the actions per sample; None: to be set before the first draw, to the contract's.
    """

    kind = "robot"

    def __init__(self, folder: str | Path, weight: float = 1.0, loss_weight: float = 1.0, chunk: int | None = None, **kwargs):
        super().__init__(folder, weight, loss_weight, **kwargs)
        self.chunk = chunk

    @functools.cached_property
    def _table(self) -> Steps:
        return read_steps(self.index, self.card.spec)

    @functools.cached_property
    def _rows(self) -> np.ndarray:
        episodes = np.unique(self._table.episode)
        return np.flatnonzero(np.isin(self._table.episode, episodes[self._part(len(episodes))]))

    @functools.cached_property
    def _pictures(self) -> Pictures:
        return Pictures(self.index, self.card.spec.cameras, self._table.record[self._rows] if self.cache else ())

    @property
    def actions(self) -> np.ndarray:
        """All actions of the split, float32 [N, A]."""
        return self._table.action[self._rows]

    @property
    def states(self) -> np.ndarray:
        """All states of the split, float32 [N, S]."""
        return self._table.state[self._rows]

    def item(self, i: int, rng: np.random.Generator) -> RobotItem:
        if not self.chunk or self.chunk < 1:
            raise UserError(f"the chunk length is {self.chunk}", str(self.folder), "set `chunk` to the contract's")
        table, row = self._table, self._rows[i]
        ahead = row + np.arange(self.chunk)
        inside = np.minimum(ahead, table.end[row] - 1)
        said = table.said[row]
        images, points = self._change(self._pictures(int(table.record[row])), [said.point] if said.point else [], rng)
        return RobotItem(
            images=images,
            state=table.state[row],
            actions=table.action[inside],
            mask=ahead < table.end[row],
            terminate=table.terminate[inside],
            instruction=said.instruction,
            target=said.target,
            point=points[0] if points else None,
            reach=said.reach,
            episode=int(table.episode[row]),
            step=int(table.step[row]),
            embodiment=said.embodiment,
        )


class QuestionSource(Source[QuestionItem]):
    """Pictures with questions: one sample per picture, some of its questions drawn each time. Splits are by picture.

    A picture without questions is no sample.

    Args:
        types: question type -> how often it is drawn, relative to the others; those not named count 1.
        asked: how many questions of a picture are drawn, all different (fewer where it has fewer): the pictures pass through the
            model once for all of them.
    """

    kind = "questions"

    def __init__(
        self,
        folder: str | Path,
        weight: float = 1.0,
        loss_weight: float = 1.0,
        types: dict[str, float] | None = None,
        asked: int = 1,
        **kwargs,
    ):
        super().__init__(folder, weight, loss_weight, **kwargs)
        if asked < 1:
            raise UserError(f"{asked} questions asked of a picture", str(folder), "ask at least 1")
        self.types, self.asked = types or {}, asked

    @functools.cached_property
    def _table(self) -> list[list[dict]]:
        return [_read_questions(self.index, record) for record in range(len(self.index))]

    @functools.cached_property
    def _rows(self) -> np.ndarray:
        # The split comes first: it must not depend on which types are drawn.
        asked = np.flatnonzero([bool(questions) for questions in self._table])
        part = asked[self._part(len(asked))]
        return np.array([i for i in part if any(self.types.get(q["type"], 1) > 0 for q in self._table[i])], np.int64)

    @functools.cached_property
    def _pictures(self) -> Pictures:
        return Pictures(self.index, self.card.spec.cameras, self._rows.tolist() if self.cache else ())

    def questions(self, i: int) -> list[dict]:
        """All questions on picture i of the split: {"type", "question", "answer"}."""
        return self._table[self._rows[i]]

    def item(self, i: int, rng: np.random.Generator, which: int | None = None) -> QuestionItem:
        """Picture i of the split with the drawn questions, or with question `which` of `questions(i)` alone."""
        known = self.questions(i)
        if which is None:
            weights = np.array([self.types.get(q["type"], 1.0) for q in known], np.float64)
            count = min(self.asked, int((weights > 0).sum()))
            chosen = [known[k] for k in rng.choice(len(known), count, replace=False, p=weights / weights.sum())]
        else:
            chosen = [known[which]]
        answers = [q["answer"] if isinstance(q["answer"], list) else [q["answer"]] for q in chosen]
        places = [tuple(part) for parts in answers for part in parts if isinstance(part, list)]
        images, moved = self._change(self._pictures(int(self._rows[i])), places, rng)
        points = iter(moved)
        said = [[next(points) if isinstance(part, list) else part for part in parts] for parts in answers]
        return QuestionItem(images, [Question(q["question"], a, q["type"]) for q, a in zip(chosen, said, strict=True)])


def _read_questions(index: ShardIndex, record: int) -> list[dict]:
    where = index.where(record, "json")
    questions = decode_json(index.read(record, ("json",))["json"], where).get("questions")
    if not isinstance(questions, list):
        raise UserError("it holds no list of questions", where)
    for q in questions:
        complete = isinstance(q, dict) and isinstance(q.get("type"), str) and isinstance(q.get("question"), str)
        if not complete or not _is_answer(q.get("answer")):
            raise UserError(f"not a question: {q}", where, "it has type, question and answer: a word, or a list of words, points and integers")
    return questions


def _is_answer(value: object) -> bool:
    def is_part(part: object) -> bool:
        place = isinstance(part, list) and len(part) == 2 and all(isinstance(c, int | float) for c in part)
        return isinstance(part, str | int) or place

    return isinstance(value, str) or (isinstance(value, list) and bool(value) and all(map(is_part, value)))
