"""Observations to the inputs of a head: one code path for training on recordings and for acting."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch

from vla.contract import Embodiment
from vla.errors import UserError
from vla.models.families.base import Images
from vla.promptable.instruction_vocabulary import FIELDS, InstructionVocabulary
from vla.promptable.prompts import PromptTemplate
from vla.promptable.representation import States
from vla.transforms import Normalise


class Represents(Protocol):
    """A `PromptableRepresentation`, cached or not."""

    shape: tuple[int, int]
    prompt: PromptTemplate

    def __call__(self, images: Sequence[Images], fields: Sequence[Mapping[str, str]]) -> States: ...


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Makes the inputs of `Head`.

    Numbers are the robot's state, scaled so that its limits are -1 and 1, and the instruction as a bag of words.

    Attributes:
        embodiment: the robot.
        vocabulary: the words of its instructions.
        represent: computes states; None: there are none.
        pixels: whether the images themselves are inputs.

    Raises:
        UserError: a prompt has a field that instructions do not fill.
    """

    embodiment: Embodiment
    vocabulary: InstructionVocabulary
    represent: Represents | None = None
    pixels: bool = False

    def __post_init__(self) -> None:
        if self.represent is not None:
            self.represent.prompt.check(FIELDS)

    @property
    def sizes(self) -> dict[str, int]:
        """The arguments `numbers`, `raw` and `cameras` of `Head`."""
        numbers = self.embodiment.state.size + len(self.vocabulary.words)
        return {
            "numbers": numbers,
            "raw": self.represent.shape[1] if self.represent else 0,
            "cameras": len(self.embodiment.cameras) * self.pixels,
        }

    def __call__(
        self, images: Sequence[Mapping[str, np.ndarray]], states: np.ndarray, instructions: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        """Converts observations to tensors.

        Args:
            images: camera name -> uint8 [H, W, 3], one mapping per observation.
            states: [B, S], in the robot's units.
            instructions: one per observation.

        Raises:
            UserError: the image of a camera is missing.
        """
        missing = [camera.name for camera in self.embodiment.cameras if any(camera.name not in by_name for by_name in images)]
        if missing:
            raise UserError(f"no image of camera {', '.join(missing)}", "observation")
        low, high = np.array(self.embodiment.state.low), np.array(self.embodiment.state.high)
        bags = np.stack([self.vocabulary.bag(text) for text in instructions])
        numbers = np.concatenate([2 * (states - low) / (high - low) - 1, bags], 1)
        inputs = {"numbers": torch.from_numpy(numbers.astype(np.float32))}
        ordered = [[by_name[camera.name] for camera in self.embodiment.cameras] for by_name in images]
        if self.represent is not None:
            represented = self.represent(ordered, [self.vocabulary.fields(text) for text in instructions])
            inputs |= {"tokens": represented.tokens, "padding": represented.padding}
        if self.pixels:
            inputs["images"] = torch.from_numpy(Normalise()(np.stack([np.stack(cameras) for cameras in ordered])))
        return inputs
