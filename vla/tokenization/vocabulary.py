"""Vocabulary: the token ids of action symbols, integers and locations in an image."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

from vla.errors import UserError
from vla.tokenization.action_tokens import HFTokenizer, action_token_ids

INTEGERS = 256
LOCATIONS = 64
INTEGER_WORDS = tuple(map(str, range(INTEGERS)))
LOCATION_WORDS = tuple(f"<loc{i:02d}>" for i in range(LOCATIONS))


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The ids of the action, integer and location tokens of a tokenizer.

    Integers are words of the language model, one token each. Locations are `<loc00>` to `<loc63>`, equal bins over a side of the
    image (like PaliGemma's location tokens, but fewer). A tokenizer may lack either; methods that need them then raise UserError.
    If it lacks integers, the first 256 action tokens take their role, if there are as many.

    Attributes:
        integer_ids: ids of "0" to "255", in order.
        loc_ids: ids of the location tokens, in order.
        eos_id: id of the token that ends an answer.
        action_ids: id of each symbol of the action codec; by default the integers.
    """

    integer_ids: tuple[int, ...]
    loc_ids: tuple[int, ...]
    eos_id: int
    action_ids: tuple[int, ...] = ()

    def __post_init__(self):
        if not self.action_ids:
            object.__setattr__(self, "action_ids", self.integer_ids)
        for ids in ([*self.integer_ids, *self.loc_ids, self.eos_id], [*self.action_ids, *self.loc_ids, self.eos_id]):
            if len(set(ids)) != len(ids):
                raise UserError(
                    "two action, integer, location or eos tokens share an id", "tokenizer", "give each a token of its own"
                )

    @classmethod
    def from_tokenizer(
        cls, tokenizer: HFTokenizer, tokens: str = "integers", spelling: Sequence[str] | None = None
    ) -> Vocabulary:
        """Reads the ids from a Hugging Face tokenizer.

        Args:
            tokenizer: a tokenizer that has the action tokens.
            tokens: which tokens action symbols are, see `action_token_ids`.
            spelling: text of each symbol; None: that of the integers.

        Raises:
            UserError: an action token or the end token is missing.
        """
        actions = action_token_ids(tokenizer, tokens, INTEGER_WORDS if spelling is None else spelling)
        if tokenizer.eos_token_id is None:
            raise UserError("it has no end token", "tokenizer", "set `eos_token`")
        integers, locations = ordered_ids(tokenizer.get_vocab())
        stand_in = actions[:INTEGERS] if len(actions) >= INTEGERS else ()
        return cls(integers or stand_in, locations, int(tokenizer.eos_token_id), actions)

    @functools.cached_property
    def _integers(self) -> np.ndarray:
        return np.array(self.integer_ids, np.int64)

    @functools.cached_property
    def _actions(self) -> np.ndarray:
        return np.array(self.action_ids, np.int64)

    def symbols_to_ids(self, symbols: np.ndarray) -> np.ndarray:
        """Action symbols [...] -> token ids [...], int64; UserError for an unknown symbol."""
        symbols = np.asarray(symbols)
        if symbols.dtype.kind not in "iu" or ((symbols < 0) | (symbols >= len(self.action_ids))).any():
            raise UserError(
                f"not symbols from 0 to {len(self.action_ids) - 1}: {symbols.reshape(-1)[:16].tolist()}", "vocabulary"
            )
        return self._actions[symbols]

    def ids_to_symbols(self, ids: np.ndarray) -> np.ndarray:
        """Token ids [...] -> action symbols [...], int64; UserError for an id that is not an action token."""
        return _positions(ids, self.action_ids, "an action")

    def bins_to_ids(self, bins: np.ndarray) -> np.ndarray:
        """Integers [...] from 0 to 255 -> token ids [...], int64; UserError for others."""
        bins = np.asarray(bins)
        if bins.dtype.kind not in "iu" or ((bins < 0) | (bins >= len(self.integer_ids))).any():
            self._need(self.integer_ids, "integer")
            raise UserError(f"not integers from 0 to {len(self.integer_ids) - 1}: {bins.reshape(-1)[:16].tolist()}", "vocabulary")
        return self._integers[bins]

    def ids_to_bins(self, ids: np.ndarray) -> np.ndarray:
        """Token ids [...] -> integers [...], int64; UserError for an id that is not an integer token."""
        return _positions(ids, self.integer_ids, "an integer")

    def point_to_ids(self, u: float, v: float) -> list[int]:
        """A point in an image (u to the right, v down, both clipped to 0 to 1) -> its two location tokens."""
        if not (math.isfinite(u) and math.isfinite(v)):
            raise UserError(f"the point ({u}, {v}) is not finite", "vocabulary")
        self._need(self.loc_ids, "location")
        bins = len(self.loc_ids)
        return [self.loc_ids[min(int(min(max(c, 0), 1) * bins), bins - 1)] for c in (u, v)]

    def ids_to_point(self, ids: np.ndarray) -> tuple[float, float]:
        """Two location tokens -> (u, v), the centres of their bins; UserError for other tokens."""
        if np.shape(ids) != (2,):
            raise UserError(f"a point is two tokens, not {np.shape(ids)}", "vocabulary")
        u, v = (_positions(ids, self.loc_ids, "a location") + 0.5) / len(self.loc_ids)
        return float(u), float(v)

    def _need(self, ids: tuple[int, ...], kind: str) -> None:
        if not ids:
            raise UserError(
                f"it has no {kind} tokens", "tokenizer", "leave {state} out of the prompt and the plan out, or add them"
            )


def ordered_ids(vocabulary: dict[str, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids of the integers and of the location tokens, each in order; () if the tokenizer's vocabulary lacks any of them."""

    def ids(words: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(vocabulary[word] for word in words) if all(word in vocabulary for word in words) else ()

    return ids(INTEGER_WORDS), ids(LOCATION_WORDS)


def _positions(ids: np.ndarray, table: tuple[int, ...], kind: str) -> np.ndarray:
    """The position of each of the ids [...] in the table."""
    ids = np.asarray(ids)
    if not table:
        raise UserError(f"it has no token that is {kind}", "tokenizer")
    order = np.argsort(table)
    ordered = np.array(table, np.int64)[order]
    nearest = np.minimum(np.searchsorted(ordered, ids), len(table) - 1)
    if ids.dtype.kind not in "iu" or (ordered[nearest] != ids).any():
        bad = ids[ordered[nearest] != ids].reshape(-1)[:5].tolist()
        raise UserError(f"token ids {bad} are not {kind} token", "vocabulary", "restrict decoding to action tokens")
    return order[nearest].astype(np.int64)
