"""Samples of sources: a step of an episode with the actions after it, or images with questions."""

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
        past: earlier images, oldest first; None before the start of the episode.
        state: float32 [S].
        actions: float32 [K, A], in the card's units; after the end of the episode the last action is repeated.
        mask: bool [K], False after the end of the episode.
        terminate: bool [K], True where the task is done.
        target: name of the object to act on.
        point: position of the target in the first camera's image, or None.
        offset: offset of the target from the gripper along x, y, z and the turn to it, as integers 0 to 255, or None
            (`reach` in saved data and in plans).
        mode: which part of the plan the model writes, see `Mode`; "" is the contract's first mode.
        questions: questions on the images, which are answered beside acting.
    """

    images: Images
    state: np.ndarray
    actions: np.ndarray
    mask: np.ndarray
    terminate: np.ndarray
    instruction: str
    target: str
    point: Point | None
    offset: tuple[int, ...] | None
    episode: int
    step: int
    embodiment: str
    past: list[Images | None] = dataclasses.field(default_factory=list)
    mode: str = ""
    questions: list[Question] = dataclasses.field(default_factory=list)

    def without_images(self) -> RobotSample:
        return dataclasses.replace(self, images={}, past=[])


@dataclasses.dataclass
class Question:
    """A question on an image.

    Attributes:
        text: the question.
        answer: the parts of the answer, in order: words, points in the first camera's image, and integers from 0 to 255.
        type: type of the question; accuracies are reported per type.
    """

    text: str
    answer: list[str | int | Point]
    type: str

    @property
    def point(self) -> Point | None:
        """The answer if it is a single point, else None."""
        return self.answer[0] if len(self.answer) == 1 and isinstance(self.answer[0], tuple) else None


@dataclasses.dataclass
class QuestionSample:
    """Images and questions on them."""

    images: Images
    questions: list[Question]

    def without_images(self) -> QuestionSample:
        return dataclasses.replace(self, images={})
