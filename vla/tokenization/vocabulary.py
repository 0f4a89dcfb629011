"""Vocabulary: which token ids stand for action symbols, for integers and for places in a picture."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from vla.errors import UserError
from vla.tokenization.plans import action_table

INTEGERS = 256
PLACES = 64
INTEGER_WORDS = tuple(map(str, range(INTEGERS)))
PLACE_WORDS = tuple(f"<loc{i:02d}>" for i in range(PLACES))


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Ids of the action, integer and location tokens of one tokenizer.

    Integers are words of the language model itself, one token each; places are `<loc00>` to `<loc63>`, even bins over a side of
    the picture (PaliGemma's location tokens, fewer of them). A tokenizer may lack either: what needs them then says so. Where
    it lacks integers, action tokens stand in for them, if there are enough.

    Attributes:
        integer_ids: ids of "0" to "255", in order.
        loc_ids: ids of the location tokens, in order.
        eos_id: the token that ends an answer.
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
    def from_tokenizer(cls, tokenizer: Any, plan: str = "integers", spelling: Sequence[str] | None = None) -> Vocabulary:
        """Reads the ids from a Hugging Face tokenizer.

        Args:
            tokenizer: with the tokens that the plan needs.
            plan: where action symbols live, see `action_table`.
            spelling: of the symbols; None: as the integers.

        Raises:
            UserError: an action token or the end token is not there.
        """
        actions = action_table(tokenizer, plan, INTEGER_WORDS if spelling is None else spelling)
        if tokenizer.eos_token_id is None:
            raise UserError("it has no end token", "tokenizer", "set `eos_token`")
        integers, places = ordered_ids(tokenizer)
        stand_in = actions[:INTEGERS] if len(actions) >= INTEGERS else ()
        return cls(integers or stand_in, places, int(tokenizer.eos_token_id), actions)

    @functools.cached_property
    def _integers(self) -> np.ndarray:
        return np.array(self.integer_ids, np.int64)

    @functools.cached_property
    def _actions(self) -> np.ndarray:
        return np.array(self.action_ids, np.int64)

    def symbols_to_ids(self, symbols: np.ndarray) -> np.ndarray:
        """Action symbols [...] -> token ids [...], int64; UserError for one that there is not."""
        symbols = np.asarray(symbols)
        if symbols.dtype.kind not in "iu" or ((symbols < 0) | (symbols >= len(self.action_ids))).any():
            raise UserError(
                f"not symbols from 0 to {len(self.action_ids) - 1}: {symbols.reshape(-1)[:16].tolist()}", "vocabulary"
            )
        return self._actions[symbols]

    def ids_to_symbols(self, ids: np.ndarray) -> np.ndarray:
        """Token ids [...] -> action symbols [...], int64; UserError for an id that is no action token."""
        return _positions(ids, self.action_ids, "an action")

    def bins_to_ids(self, bins: np.ndarray) -> np.ndarray:
        """Integers [...] from 0 to 255 -> token ids [...], int64; UserError for others."""
        bins = np.asarray(bins)
        if bins.dtype.kind not in "iu" or ((bins < 0) | (bins >= len(self.integer_ids))).any():
            self._need(self.integer_ids, "integer")
            raise UserError(f"not integers from 0 to {len(self.integer_ids) - 1}: {bins.reshape(-1)[:16].tolist()}", "vocabulary")
        return self._integers[bins]

    def ids_to_bins(self, ids: np.ndarray) -> np.ndarray:
        """Token ids [...] -> integers [...], int64; UserError for an id that is no integer token."""
        return _positions(ids, self.integer_ids, "an integer")

    def point_to_ids(self, u: float, v: float) -> list[int]:
        """A place in a picture (u to the right, v down, both 0 to 1; clipped) -> its two location tokens."""
        if not (math.isfinite(u) and math.isfinite(v)):
            raise UserError(f"the point ({u}, {v}) is not finite", "vocabulary")
        self._need(self.loc_ids, "location")
        places = len(self.loc_ids)
        return [self.loc_ids[min(int(min(max(c, 0), 1) * places), places - 1)] for c in (u, v)]

    def ids_to_point(self, ids: np.ndarray) -> tuple[float, float]:
        """Two location tokens -> (u, v), the centres of their bins; UserError for other tokens."""
        if np.shape(ids) != (2,):
            raise UserError(f"a point is two tokens, not {np.shape(ids)}", "vocabulary")
        u, v = (_positions(ids, self.loc_ids, "a location") + 0.5) / len(self.loc_ids)
        return float(u), float(v)

    def _need(self, ids: tuple[int, ...], what: str) -> None:
        if not ids:
            raise UserError(
                f"it has no {what} tokens", "tokenizer", "leave {state} out of the prompt and the plan out, or add them"
            )


def ordered_ids(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids of the integers and of the location tokens, each in order; () where the tokenizer does not have all of them."""
    known = tokenizer.get_vocab()
    lists = (INTEGER_WORDS, PLACE_WORDS)
    integers, places = (tuple(known[word] for word in words) if all(word in known for word in words) else () for words in lists)
    return integers, places


def _positions(ids: np.ndarray, table: tuple[int, ...], what: str) -> np.ndarray:
    """Where each of the ids [...] stands in the table."""
    ids = np.asarray(ids)
    if not table:
        raise UserError(f"it has no token that is {what}", "tokenizer")
    order = np.argsort(table)
    ordered = np.array(table, np.int64)[order]
    found = np.minimum(np.searchsorted(ordered, ids), len(table) - 1)
    if ids.dtype.kind not in "iu" or (ordered[found] != ids).any():
        bad = ids[ordered[found] != ids].reshape(-1)[:5].tolist()
        raise UserError(f"token ids {bad} are not {what} token", "vocabulary", "restrict decoding to the tokens of the action")
    return order[found].astype(np.int64)
