"""Samples as sources give them: a step of an episode with what comes after it, or pictures with questions."""

from __future__ import annotations

import dataclasses

import numpy as np

from vla.transforms import Point

Images = dict[str, np.ndarray]


@dataclasses.dataclass
class RobotSample:
    """One step of an episode and the K actions from there on.

    Attributes:
        images: camera name -> upright RGB, uint8 [H, W, 3].
        past: the pictures before these, oldest first; None where the episode had not begun.
        state: float32 [S].
        actions: float32 [K, A], in the card's units; past the end of the episode the last one is repeated.
        mask: bool [K], False past the end.
        terminate: bool [K], True where the task is done.
        point: where the named object is in the first camera's picture, or None.
        reach: how far it is from the gripper and how far to turn: four integers of 256 even steps, or None.
        mode: what of the plan is written, see `Mode`; "" is the contract's first.
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
    past: list[Images | None] = dataclasses.field(default_factory=list)
    mode: str = ""

    def without_images(self) -> RobotSample:
        return dataclasses.replace(self, images={}, past=[])


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
class QuestionSample:
    """Pictures and questions on them."""

    images: Images
    questions: list[Question]

    def without_images(self) -> QuestionSample:
        return dataclasses.replace(self, images={})
