"""Where action symbols live: which token of a tokenizer stands for which symbol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vla.errors import UserError

PREFIXES = ("", "▁", "Ġ", "##")
"""How tokenizers mark a word's beginning or its going on: not at all, SentencePiece, byte-level BPE, WordPiece."""
SPACES = ("Ġ", "▁", " ", ",", ";", "|")
"""What can stand between two numbers, the best first; WordPiece has no token for a space."""


def action_table(tokenizer: Any, plan: str, spelling: Sequence[str]) -> tuple[int, ...]:
    """The token id of each symbol.

    Plans are:
    - integers: the tokenizer's own words for the symbols, one token each (RT-2-PaLI-X; digits for number words).
    - overwrite: the least used tokens, from the last one backwards (RT-2-PaLM-E; OpenVLA, where symbol k is id 32000 - 1 - k):
      vocabularies are made by merging what is frequent first. Added and special tokens stay as they are.
    - overwrite:ID: the same from this id backwards.
    - append: tokens that were added for them (`appended`).

    Raises:
        UserError: an unknown plan, or the tokenizer lacks the tokens.
    """
    kind, _, start = plan.partition(":")
    if kind == "overwrite" and (not start or start.isdecimal()):
        return _overwritten(tokenizer, len(spelling), int(start) if start else None)
    if plan == "integers":
        return _words(tokenizer, spelling)
    if plan == "append":
        return _all(
            tokenizer.get_vocab(), appended(len(spelling)), "`vla fit` adds them, or `vla.models.embeddings.append_tokens`"
        )
    raise UserError(f"plan {plan!r}", "contract.tokens", "integers, overwrite, overwrite:ID or append")


def appended(count: int) -> list[str]:
    """The tokens that plan `append` adds."""
    return [f"<act{k}>" for k in range(count)]


def _words(tokenizer: Any, spelling: Sequence[str]) -> tuple[int, ...]:
    known = tokenizer.get_vocab()
    written = [w for w in spelling if w.isdecimal()]
    prefix = next((p for p in PREFIXES if all(p + w in known for w in written)), "")
    space = next((s for s in SPACES if s in known), " ")
    return _all(
        known, [space if w == " " else prefix + w if w.isdecimal() else w for w in spelling], "choose contract.tokens append"
    )


def _all(known: dict[str, int], tokens: Sequence[str], fix: str) -> tuple[int, ...]:
    missing = [token for token in tokens if token not in known]
    if missing:
        some = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
        raise UserError(f"{len(missing)} tokens are missing: {some}", "tokenizer", fix)
    return tuple(known[token] for token in tokens)


def _overwritten(tokenizer: Any, count: int, start: int | None) -> tuple[int, ...]:
    kept = {*tokenizer.all_special_ids, *(tokenizer.added_tokens_decoder if start is None else ())}
    first = tokenizer.vocab_size - 1 if start is None else start
    ids = [i for i in range(first, -1, -1) if i not in kept][:count]
    if len(ids) < count or ids[0] >= len(tokenizer):
        raise UserError(f"no {count} tokens from id {first} backwards", "contract.tokens", "choose append")
    return tuple(ids)
