"""Words, integers and locations as tokens, and back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from vla.tokenization.prompts import Mark, Words
from vla.tokenization.sequence import Role, Sequence, piece
from vla.tokenization.vocabulary import Vocabulary
from vla.transforms import Point


class TextTokens:
    """The tokens of prompts and answers.

    Args:
        vocabulary: ids of integers, locations and the end token.
        words: ids of an instruction or question that stands apart; see `ModelFamily.words`.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, words: Callable[[str], list[int]] | None = None
    ):
        self.tokenizer, self.vocabulary, self.words = tokenizer, vocabulary, words
        self.prompt = functools.lru_cache(4096, typed=True)(self._prompt)

    def __getstate__(self) -> dict[str, Any]:
        # Loader processes get the object without its cache.
        return {name: value for name, value in self.__dict__.items() if name != "prompt"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self.prompt = functools.lru_cache(4096, typed=True)(self._prompt)

    def _prompt(self, text: str) -> Sequence:
        """The tokens of a part of a prompt. "<image>" in a user's text is letters; in a chat template it is a token."""
        if self.words is not None and isinstance(text, Words):
            return piece(self.words(str(text)), Role.PROMPT)
        letters = not isinstance(text, Mark)
        return piece(self.tokenizer(str(text), add_special_tokens=False, split_special_tokens=letters)["input_ids"], Role.PROMPT)

    def ids(self, part: str | int | Point) -> list[int]:
        """The ids of a part of an answer: words, an integer, or a point as two locations."""
        if isinstance(part, str):
            return self.prompt(" " + part).ids.tolist()
        if isinstance(part, int):
            return self.vocabulary.bins_to_ids(np.array([part])).tolist()
        return self.vocabulary.point_to_ids(*part)

    def until_end(self, ids: np.ndarray) -> np.ndarray:
        """The ids [T] before the end token."""
        return ids[: np.append(np.flatnonzero(ids == self.vocabulary.eos_id), len(ids))[0]]

    def text(self, ids: np.ndarray) -> str:
        """The words that ids [T] stand for, up to the end token."""
        return str(self.tokenizer.decode(self.until_end(ids).tolist())).strip()
