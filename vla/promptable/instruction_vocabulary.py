"""What an instruction tells beside pictures: its words, and the object that it names, which fills prompts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

import numpy as np

FIELDS = ("instruction", "object")
UNKNOWN = "object"
"""What fills {object} where an instruction names none that is known."""


@dataclasses.dataclass(frozen=True)
class InstructionVocabulary:
    """The language of a data set.

    Attributes:
        words: of its instructions, sorted.
        objects: that they name.
    """

    words: tuple[str, ...]
    objects: tuple[str, ...]

    @classmethod
    def of(cls, instructions: Iterable[str], objects: Iterable[str]) -> InstructionVocabulary:
        """All words and objects that occur."""
        known = {" ".join(split(name)) for name in objects} - {""}
        return cls(tuple(sorted({word for text in instructions for word in split(text)})), tuple(sorted(known)))

    def bag(self, instruction: str) -> np.ndarray:
        """Which of the words occur, float32 [W]; others are not seen."""
        said = set(split(instruction))
        return np.array([word in said for word in self.words], np.float32)

    def fields(self, instruction: str) -> dict[str, str]:
        """What fills a prompt: the instruction, and the first known object in it, the longest of those that begin there."""
        text = f" {' '.join(split(instruction))} "
        found = [(text.find(f" {name} "), -len(name), name) for name in self.objects if f" {name} " in text]
        return {"instruction": instruction, "object": min(found)[2] if found else UNKNOWN}


def split(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return re.findall(r"\w+", text.lower())
