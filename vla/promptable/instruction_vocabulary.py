"""Instructions as inputs: a bag of words, and the object that an instruction names, which fills prompts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

import numpy as np

FIELDS = ("instruction", "object")
UNKNOWN = "object"
"""Fills {object} if an instruction names no known object."""


@dataclasses.dataclass(frozen=True)
class InstructionVocabulary:
    """The words and objects of a data set's instructions.

    Attributes:
        words: all words, sorted.
        objects: all names of objects, sorted.
    """

    words: tuple[str, ...]
    objects: tuple[str, ...]

    @classmethod
    def of(cls, instructions: Iterable[str], objects: Iterable[str]) -> InstructionVocabulary:
        """Collects the words and objects that occur."""
        known = {" ".join(split(name)) for name in objects} - {""}
        return cls(tuple(sorted({word for text in instructions for word in split(text)})), tuple(sorted(known)))

    def bag(self, instruction: str) -> np.ndarray:
        """Returns which of the words occur, float32 [W]; unknown words are ignored."""
        present = set(split(instruction))
        return np.array([word in present for word in self.words], np.float32)

    def fields(self, instruction: str) -> dict[str, str]:
        """Returns the fields of a prompt: the instruction, and the first known object in it (the longest that begins there)."""
        text = f" {' '.join(split(instruction))} "
        matches = [(text.find(f" {name} "), -len(name), name) for name in self.objects if f" {name} " in text]
        return {"instruction": instruction, "object": min(matches)[2] if matches else UNKNOWN}


def split(text: str) -> list[str]:
    """Splits a text into words, in lower case."""
    return re.findall(r"\w+", text.lower())
