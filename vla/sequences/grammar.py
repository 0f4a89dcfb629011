"""What an action answer may be: the plan's tokens, then a chunk as the contract's codec writes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from vla.contract import PolicyContract
from vla.errors import UserError
from vla.models.decoding.allowed import Block, Follow, Free, Ordinal
from vla.observation import ActionChunk
from vla.sequences.plan import PlanTokens
from vla.tokenization.base import ActionCodec, Malformed
from vla.tokenization.codecs import has_ordinal, no_ordinal


class ActionGrammar:
    """How actions are written and read.

    Args:
        contract: what was agreed.
        codecs: of each embodiment's actions, by name; the first is the default.
        plan: what is written before.
        pad: id of the padding token, which stands for what is written at once.

    Raises:
        UserError: a block of a codec with answers of unequal length, or a statistic that nothing has.
    """

    def __init__(self, contract: PolicyContract, codecs: dict[str, ActionCodec], plan: PlanTokens, pad: int):
        if contract.block != "none" and not all(codec.fixed for codec in codecs.values()):
            raise UserError(
                f"codec {contract.codec} writes answers of unequal length, which cannot be written at once",
                "contract.block",
                "none, or another codec",
            )
        if contract.decode != "mode" and not has_ordinal(contract, codecs.values()):
            raise no_ordinal(contract)
        self.contract, self.codecs, self.plan, self.pad, self.vocabulary = contract, codecs, plan, pad, plan.vocabulary
        self._writing: dict[tuple[str, str], dict[str, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # For loader processes, which write nothing: a cache belongs to its process.
        return {**self.__dict__, "_writing": {}}

    def codec(self, embodiment: str = "") -> ActionCodec:
        """The codec of an embodiment's actions."""
        self.contract.embodiment(embodiment)
        return self.codecs[embodiment or next(iter(self.codecs))]

    def ends(self, embodiment: str = "") -> int | None:
        """The token that ends an action answer; None where all are of the same length."""
        return None if self.codec(embodiment).fixed else self.vocabulary.eos_id

    def ordinals(self) -> list[Ordinal]:
        """The integer and the location tokens, for answers to questions, where all words are allowed. None for the mode."""
        lists = (self.vocabulary.integer_ids, self.vocabulary.loc_ids) if self.contract.decode != "mode" else ()
        return [Ordinal(torch.tensor(ids), self.contract.decode) for ids in lists if ids]

    def allowed(self, embodiment: str = "", mode: str = "") -> list[list[int] | Free]:
        """The ids that each token of an action answer may have, in order, or free text; mode "" is the contract's first.

        Where answers are of unequal length these are the longest one's places, each of which may also be the end; which of the
        ids may really come depends on those before, and `next` says so.
        """
        return [*self.plan.allowed(mode), *self._chunk(embodiment)]

    def ordinal(self, embodiment: str = "", mode: str = "") -> list[bool]:
        """Which tokens of an action answer have ids that stand for rising values, in their order; as many as `allowed` has."""
        end = [] if self.ends(embodiment) is None else [False]
        return [*self.plan.ordinal(mode), *self.codec(embodiment).ordinal(), *end]

    def next(self, embodiment: str = "", mode: str = "") -> Callable[[np.ndarray], list[int]]:
        """The function from the ids written so far [n] of an action answer to those that may come next; none: it is complete.
        It does not know free text.

        Raises (the function):
            Malformed: no answer begins so.
        """
        codec = self.codec(embodiment)
        plan = [[] if isinstance(ids, Free) else ids for ids in self.plan.allowed(mode)]

        def follow(written: np.ndarray) -> list[int]:
            if len(written) < len(plan):
                return plan[len(written)]
            ids = np.asarray(written)[len(plan) :]
            if not codec.fixed and len(ids) and ids[-1] == self.vocabulary.eos_id:
                return []
            symbols, end = codec.next(self.vocabulary.ids_to_symbols(ids))
            return self.vocabulary.symbols_to_ids(symbols).tolist() + [self.vocabulary.eos_id] * (end and not codec.fixed)

        return follow

    def writing(self, embodiment: str = "", mode: str = "") -> dict[str, Any]:
        """How an action answer is written, as `decode.write` takes it: what is allowed, its end, its block."""
        if (embodiment, mode) not in self._writing:
            self._writing[embodiment, mode] = self._way(embodiment, mode)
        return self._writing[embodiment, mode]

    def _way(self, embodiment: str, mode: str) -> dict[str, Any]:
        # Tokens that may be the same have one table: what a session makes for it serves them all.
        tables: dict[tuple[int, ...], torch.Tensor] = {}
        decode = self.contract.decode

        def place(ids: list[int] | Free, ordinal: bool) -> torch.Tensor | Ordinal | Free:
            if isinstance(ids, Free):
                return ids
            table = tables.setdefault(tuple(ids), torch.tensor(ids))
            return Ordinal(table, decode) if ordinal and decode != "mode" else table

        places = zip(self.allowed(embodiment, mode), self.ordinal(embodiment, mode), strict=True)
        allowed = [place(*one) for one in places]
        if (end := self.ends(embodiment)) is not None:
            return {"allowed": Follow(allowed, self.next(embodiment, mode)), "eos_id": end}
        if self.contract.block == "none":
            return {"allowed": allowed}
        plan = self.plan.length(mode)
        chunk = [ids for ids in allowed[plan:] if not isinstance(ids, Free)]
        return {"allowed": allowed[:plan], "block": Block.of(chunk, self.pad, self.contract.block == "bidirectional")}

    def _chunk(self, embodiment: str) -> list[list[int]]:
        end = [] if self.ends(embodiment) is None else [self.vocabulary.eos_id]
        places = [self.vocabulary.symbols_to_ids(symbols).tolist() + end for symbols in self.codec(embodiment).positions()]
        return [*places, *([end] if end else [])]

    def read(self, ids: np.ndarray, embodiment: str = "", mode: str = "") -> ActionChunk:
        """Written ids [T] back to actions in physical units; info holds the plan: `words`, `point`, `reach`.

        What is no whole chunk comes back as `status`, without actions.

        Raises:
            UserError: an id is not an action token.
        """
        plan, ids = self.plan.read(ids, mode)
        codec = self.codec(embodiment)
        symbols = self.vocabulary.ids_to_symbols(ids if codec.fixed else self.plan.text.until_end(ids))
        try:
            return ActionChunk(*codec.decode(symbols), plan)
        except Malformed as error:
            return ActionChunk(np.empty((0, codec.space.size)), np.empty(0, bool), plan, f"malformed: {error.what}")
