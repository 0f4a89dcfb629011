"""The interface between the decoder and a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch


class CachedLayer(Protocol):
    """The KV cache of one layer: `keys` and `values` [B, H, L, D]."""

    keys: torch.Tensor
    values: torch.Tensor


class RunningAnswer(Protocol):
    """The step of an answer that has begun."""

    def read(self, fresh: torch.Tensor, ahead: int = 0, mutual: bool = False) -> tuple[torch.Tensor, RunningAnswer]:
        """Returns the last states [B, N, D] of tokens [B, N], and the step for the next ones.

        Args:
            fresh: the tokens.
            ahead, mutual: as for `DecodingSession.read`.
        """
        ...


class FastSteps(Protocol):
    """Decoding steps of one model, which read an answer's tokens faster than its modules do. Keep them as long as the model."""

    def begin(self, layers: Sequence[CachedLayer], mask: torch.Tensor, positions: torch.Tensor) -> RunningAnswer:
        """Starts an answer after prompts.

        Args:
            layers: the KV cache of the prompts, layer by layer.
            mask: [B, L] bool, False is padding.
            positions: [..., B, 1] position ids of the next token.
        """
        ...


class DecodingSession(Protocol):
    """A model with a batch of prompts and a KV cache. Each call reads the tokens that the model has not read yet.

    Attributes:
        rows: number of answers that are written at once.
        device: the model's device.
        vocabulary: size of the model's vocabulary.
    """

    rows: int
    device: torch.device
    vocabulary: int

    def read(self, fresh: torch.Tensor, words: torch.Tensor | None, ahead: int = 0, mutual: bool = False) -> torch.Tensor:
        """Reads tokens and returns logits of the next ones. The first call reads the prompts, too.

        Args:
            fresh: [rows, N] unread tokens; N may be 0 in the first call.
            words: [U] ids whose logits are computed; None: all.
            ahead: number of blanks at the end of `fresh`; logits after each of them are returned, too.
            mutual: whether blanks attend to later blanks.

        Returns:
            Logits [rows, 1 + ahead, V], or [rows, 1 + ahead, U] of some words: after the last token before the blanks, and after
            each blank.
        """
        ...

    def repeat(self, times: int) -> None:
        """Repeats every row `times` times, after the prompts have been read; copies of a row are adjacent."""
        ...
