"""Observations as a head sees them: one code path for training on recorded ones and for acting."""

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
    """Makes what `Head` takes.

    Numbers are the robot's state, its limits being -1 and 1, and the instruction as a bag of words.

    Attributes:
        body: the robot.
        told: the language of its instructions.
        represent: gives states; None where none are seen.
        pixels: whether pictures themselves are seen.

    Raises:
        UserError: a prompt has a field that instructions do not fill.
    """

    body: Embodiment
    told: InstructionVocabulary
    represent: Represents | None = None
    pixels: bool = False

    def __post_init__(self) -> None:
        if self.represent is not None:
            self.represent.prompt.check(FIELDS)

    @property
    def sizes(self) -> dict[str, int]:
        """Of `Head`: numbers, raw and cameras."""
        numbers = self.body.state.size + len(self.told.words)
        return {
            "numbers": numbers,
            "raw": self.represent.shape[1] if self.represent else 0,
            "cameras": len(self.body.cameras) * self.pixels,
        }

    def __call__(
        self, images: Sequence[Mapping[str, np.ndarray]], states: np.ndarray, instructions: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        """Observations as tensors.

        Args:
            images: camera name -> uint8 [H, W, 3], one mapping per observation.
            states: [B, S], in the robot's units.
            instructions: one per observation.

        Raises:
            UserError: a camera's picture is not there.
        """
        missing = [camera.name for camera in self.body.cameras if any(camera.name not in one for one in images)]
        if missing:
            raise UserError(f"no picture of camera {', '.join(missing)}", "observation")
        low, high = np.array(self.body.state.low), np.array(self.body.state.high)
        bags = np.stack([self.told.bag(text) for text in instructions])
        numbers = np.concatenate([2 * (states - low) / (high - low) - 1, bags], 1)
        seen = {"numbers": torch.from_numpy(numbers.astype(np.float32))}
        pictures = [[one[camera.name] for camera in self.body.cameras] for one in images]
        if self.represent is not None:
            made = self.represent(pictures, [self.told.fields(text) for text in instructions])
            seen |= {"tokens": made.tokens, "padding": made.padding}
        if self.pixels:
            seen["pictures"] = torch.from_numpy(Normalise()(np.stack([np.stack(one) for one in pictures])))
        return seen
