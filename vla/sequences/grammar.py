"""The grammar of an action answer: the plan's tokens, then a chunk as the contract's codec writes it."""

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
    """Says which tokens an action answer may have, and reads it.

    Args:
        contract: of the policy.
        codecs: the codec of each embodiment's actions, by name; the first is the default.
        plan: the tokens written before the actions.
        pad: id of the padding token, the blank in place of tokens that are written at once.

    Raises:
        UserError: a block with a codec whose answers differ in length, or a statistic where no token is ordinal.
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
        # Loader processes, which write nothing, get the object without its cache.
        return {**self.__dict__, "_writing": {}}

    def codec(self, embodiment: str = "") -> ActionCodec:
        """The codec of an embodiment's actions."""
        self.contract.embodiment(embodiment)
        return self.codecs[embodiment or next(iter(self.codecs))]

    def ends(self, embodiment: str = "") -> int | None:
        """The token that ends an action answer; None if all answers have the same length."""
        return None if self.codec(embodiment).fixed else self.vocabulary.eos_id

    def ordinals(self) -> list[Ordinal]:
        """The integer and the location tokens, for answers to questions, where all words are allowed. Empty for the mode."""
        lists = (self.vocabulary.integer_ids, self.vocabulary.loc_ids) if self.contract.decode != "mode" else ()
        return [Ordinal(torch.tensor(ids), self.contract.decode) for ids in lists if ids]

    def allowed(self, embodiment: str = "", mode: str = "") -> list[list[int] | Free]:
        """The ids that each token of an action answer may have, in order, or free text; mode "" is the contract's first.

        If answers differ in length, these are the positions of the longest answer, each of which may also be the end. Which ids
        may follow then depends on the ids before: see `next`.
        """
        return [*self.plan.allowed(mode), *self._chunk(embodiment)]

    def ordinal(self, embodiment: str = "", mode: str = "") -> list[bool]:
        """Which tokens of an action answer are ordinal: their ids, in order, stand for rising values. As long as `allowed`."""
        end = [] if self.ends(embodiment) is None else [False]
        return [*self.plan.ordinal(mode), *self.codec(embodiment).ordinal(), *end]

    def next(self, embodiment: str = "", mode: str = "") -> Callable[[np.ndarray], list[int]]:
        """A function from the ids [n] written so far to the ids that may come next: none when the answer is complete. It does not
        cover free text.

        Raises (the function):
            Malformed: no answer begins with these ids.
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
        """The arguments of `decode.write` for an action answer: what is allowed, the end token, the block."""
        if (embodiment, mode) not in self._writing:
            self._writing[embodiment, mode] = self._arguments(embodiment, mode)
        return self._writing[embodiment, mode]

    def _arguments(self, embodiment: str, mode: str) -> dict[str, Any]:
        # Positions with the same ids share one table, and so what a decoding session derives from it.
        tables: dict[tuple[int, ...], torch.Tensor] = {}
        decode = self.contract.decode

        def position(ids: list[int] | Free, ordinal: bool) -> torch.Tensor | Ordinal | Free:
            if isinstance(ids, Free):
                return ids
            table = tables.setdefault(tuple(ids), torch.tensor(ids))
            return Ordinal(table, decode) if ordinal and decode != "mode" else table

        positions = zip(self.allowed(embodiment, mode), self.ordinal(embodiment, mode), strict=True)
        allowed = [position(*one) for one in positions]
        if (end := self.ends(embodiment)) is not None:
            return {"allowed": Follow(allowed, self.next(embodiment, mode)), "eos_id": end}
        if self.contract.block == "none":
            return {"allowed": allowed}
        plan = self.plan.length(mode)
        chunk = [ids for ids in allowed[plan:] if not isinstance(ids, Free)]
        return {"allowed": allowed[:plan], "block": Block.of(chunk, self.pad, self.contract.block == "bidirectional")}

    def _chunk(self, embodiment: str) -> list[list[int]]:
        end = [] if self.ends(embodiment) is None else [self.vocabulary.eos_id]
        positions = [self.vocabulary.symbols_to_ids(symbols).tolist() + end for symbols in self.codec(embodiment).positions()]
        return [*positions, *([end] if end else [])]

    def read(self, ids: np.ndarray, embodiment: str = "", mode: str = "") -> ActionChunk:
        """Decodes written ids [T] to actions in physical units. `info` has the plan: `words`, `point`, `reach`. An incomplete
        chunk gives a `status` and no actions.

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
