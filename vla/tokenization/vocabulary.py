"""Vocabulary: which token ids stand for integers and for places in a picture."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from vla.errors import UserError

INTEGERS = 256
PLACES = 64


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Ids of the integer tokens and of the location tokens of one tokenizer.

    Integers are words of the language model itself, one token each (RT-2-PaLI-X); places are `<loc00>` to `<loc63>`, even bins
    over a side of the picture (PaliGemma's location tokens, fewer of them).

    Attributes:
        integer_ids: ids of "0" to "255", in order.
        loc_ids: ids of the location tokens, in order.
        eos_id: the token that ends an answer.
    """

    integer_ids: tuple[int, ...]
    loc_ids: tuple[int, ...]
    eos_id: int

    def __post_init__(self):
        ids = [*self.integer_ids, *self.loc_ids, self.eos_id]
        if len(set(ids)) != len(ids):
            raise UserError("two integer, location or eos tokens share an id", "tokenizer", "give each a token of its own")

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> Vocabulary:
        """Reads the ids from a Hugging Face tokenizer.

        Raises:
            UserError: an integer, a location or the end token is not one token of it.
        """
        known = tokenizer.get_vocab()
        integers, places = [str(i) for i in range(INTEGERS)], [f"<loc{i:02d}>" for i in range(PLACES)]
        missing = [token for token in integers + places if token not in known]
        if missing:
            some = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
            raise UserError(f"{len(missing)} tokens are missing: {some}", "tokenizer", "add them with `tokenizer.add_tokens`")
        if tokenizer.eos_token_id is None:
            raise UserError("it has no end token", "tokenizer", "set `eos_token`")
        return cls(tuple(known[t] for t in integers), tuple(known[t] for t in places), int(tokenizer.eos_token_id))

    @functools.cached_property
    def _integers(self) -> np.ndarray:
        return np.array(self.integer_ids, np.int64)

    def bins_to_ids(self, bins: np.ndarray) -> np.ndarray:
        """Integers [...] from 0 to 255 -> token ids [...], int64; UserError for others."""
        bins = np.asarray(bins)
        if bins.dtype.kind not in "iu" or ((bins < 0) | (bins >= len(self.integer_ids))).any():
            raise UserError(f"not integers from 0 to {len(self.integer_ids) - 1}: {bins.reshape(-1)[:16].tolist()}", "vocabulary")
        return self._integers[bins]

    def ids_to_bins(self, ids: np.ndarray) -> np.ndarray:
        """Token ids [...] -> integers [...], int64; UserError for an id that is no integer token."""
        return _positions(ids, self.integer_ids, "an integer")

    def point_to_ids(self, u: float, v: float) -> list[int]:
        """A place in a picture (u to the right, v down, both 0 to 1; clipped) -> its two location tokens."""
        if not (math.isfinite(u) and math.isfinite(v)):
            raise UserError(f"the point ({u}, {v}) is not finite", "vocabulary")
        places = len(self.loc_ids)
        return [self.loc_ids[min(int(min(max(c, 0), 1) * places), places - 1)] for c in (u, v)]

    def ids_to_point(self, ids: np.ndarray) -> tuple[float, float]:
        """Two location tokens -> (u, v), the centres of their bins; UserError for other tokens."""
        if np.shape(ids) != (2,):
            raise UserError(f"a point is two tokens, not {np.shape(ids)}", "vocabulary")
        u, v = (_positions(ids, self.loc_ids, "a location") + 0.5) / len(self.loc_ids)
        return float(u), float(v)


def _positions(ids: np.ndarray, table: tuple[int, ...], what: str) -> np.ndarray:
    """Where each of the ids [...] stands in the table."""
    ids = np.asarray(ids)
    order = np.argsort(table)
    ordered = np.array(table, np.int64)[order]
    found = np.minimum(np.searchsorted(ordered, ids), len(table) - 1)
    if ids.dtype.kind not in "iu" or (ordered[found] != ids).any():
        bad = ids[ordered[found] != ids].reshape(-1)[:5].tolist()
        raise UserError(f"token ids {bad} are not {what} token", "vocabulary", "restrict decoding to the tokens of the action")
    return order[found].astype(np.int64)
