"""What decoding needs of a model."""

from __future__ import annotations

from typing import Protocol

import torch


class DecodingSession(Protocol):
    """A model with a batch of prompts. It is fed what it has not read yet: first the prompts, later what was written since.

    Attributes:
        rows: how many answers are written at once.
        device: where the model is.
        vocabulary: how many tokens it has.
    """

    rows: int
    device: torch.device
    vocabulary: int

    def read(self, fresh: torch.Tensor, words: torch.Tensor | None, ahead: int = 0, mutual: bool = False) -> torch.Tensor:
        """Reads tokens and scores what comes next; the prompts are read with the first.

        Args:
            fresh: [rows, N]; N may be 0 at first.
            words: score these only; None: all.
            ahead: so many of the tokens, the last, are blanks, and what follows each of them is wanted too.
            mutual: whether the blanks see those behind them.

        Returns:
            Logits [rows, 1 + ahead, V] of what follows the last token before the blanks, and each blank.
        """
        ...

    def repeat(self, times: int) -> None:
        """Repeats every prompt, once read, so many times, one after the other."""
        ...
