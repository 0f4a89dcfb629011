"""Action tokens: which token of a tokenizer stands for each action symbol."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Protocol

from vla.errors import UserError

PREFIXES = ("", "▁", "Ġ", "##")
"""Markers of a word's beginning or continuation: none, SentencePiece, byte-level BPE, WordPiece."""
SPACES = ("Ġ", "▁", " ", ",", ";", "|")
"""Tokens that can separate two numbers, best first; WordPiece has no token for a space."""


class HFTokenizer(Protocol):
    """The part of a Hugging Face tokenizer that a vocabulary needs."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def eos_token_id(self) -> int | None: ...

    @property
    def all_special_ids(self) -> list[int]: ...

    @property
    def added_tokens_decoder(self) -> Collection[int]: ...

    def get_vocab(self) -> dict[str, int]: ...

    def __len__(self) -> int: ...


def action_token_ids(tokenizer: HFTokenizer, tokens: str, spelling: Sequence[str]) -> tuple[int, ...]:
    """The token id of each symbol.

    `tokens` (the contract's) is one of:
    - integers: the tokenizer's own words for the symbols, one token each (RT-2-PaLI-X; digits for number words).
    - overwrite: the least used tokens, from the last one backwards (RT-2-PaLM-E; OpenVLA, where symbol k is id 32000 - 1 - k).
      A vocabulary starts with frequent tokens, since it is made by merging them first. Added and special tokens are skipped.
    - overwrite:ID: the same from this id backwards.
    - append: tokens that were added for the symbols (`appended_tokens`).
    - spare:TOKEN: numbered tokens that the tokenizer has for special purposes, from this one on; see `spare_tokens`.

    Raises:
        UserError: `tokens` is none of these, or the tokenizer lacks the tokens.
    """
    kind, _, start = tokens.partition(":")
    if kind == "overwrite" and (not start or start.isdecimal()):
        return _overwritten(tokenizer, len(spelling), int(start) if start else None)
    if kind == "spare" and start:
        names = _numbered(start, len(spelling))
        return _all(tokenizer.get_vocab(), names, "give another first token")
    if tokens == "integers":
        return _words(tokenizer, spelling)
    if tokens == "append":
        fix = "`vla fit` adds them, or `vla.models.embeddings.append_tokens`"
        return _all(tokenizer.get_vocab(), appended_tokens(len(spelling)), fix)
    raise UserError(
        f"unknown action tokens {tokens!r}", "contract.tokens", "use integers, overwrite, overwrite:ID, append or spare"
    )


def chosen_tokens(tokenizer: HFTokenizer, tokens: str, spelling: Sequence[str], rows: int) -> str:
    """What a run's `tokens` setting means for this tokenizer: one of the settings that `action_token_ids` takes.

    "" is the integers, if the tokenizer has one token for each, else "spare". "spare" is, in this order: tokens that the
    tokenizer has for special purposes (`spare_tokens`); appended tokens, if the embeddings have rows that no token uses; its
    least used tokens; appended tokens, for which the embeddings grow.

    Args:
        spelling: text of each symbol.
        rows: number of rows of the model's embeddings.
    """
    if tokens == "":
        try:
            _words(tokenizer, spelling)
            return "integers"
        except UserError:
            tokens = "spare"
    if tokens != "spare":
        return tokens
    if first := spare_tokens(tokenizer, len(spelling)):
        return f"spare:{first}"
    if len(tokenizer) + len(spelling) <= rows:
        return "append"
    # Half of a small vocabulary would be too much.
    return "overwrite" if tokenizer.vocab_size >= 32 * len(spelling) else "append"


def spare_tokens(tokenizer: HFTokenizer, count: int) -> str:
    """The first of `count` consecutively numbered tokens for special purposes; "" if there are not as many.

    These are PaliGemma's `<loc0000>` and on, which stand for values in order already, then tokens named unused or reserved
    (Gemma, Llama).
    """
    vocabulary = tokenizer.get_vocab()
    for kind in ("loc", "unused", "reserved"):
        firsts = sorted((i, name) for name, i in vocabulary.items() if kind in name and _NUMBERED.fullmatch(name))
        # The first of a run has no predecessor.
        for _, name in firsts:
            if _shifted(name, -1) not in vocabulary and all(one in vocabulary for one in _numbered(name, count)):
                return name
    return ""


_NUMBERED = re.compile(r"(<\D*)(\d+)(\D*>)")


def _shifted(name: str, by: int) -> str:
    """The token whose number is higher by so much."""
    match = _NUMBERED.fullmatch(name)
    if match is None:
        raise UserError(f"{name!r} has no number", "contract.tokens", "give a numbered token, such as spare:<unused0>")
    before, number, after = match.groups()
    return f"{before}{int(number) + by:0{len(number) if number[0] == '0' else 1}}{after}"


def _numbered(first: str, count: int) -> list[str]:
    return [_shifted(first, k) for k in range(count)]


def appended_tokens(count: int) -> list[str]:
    """The tokens that "append" adds for `count` symbols."""
    return [f"<act{k}>" for k in range(count)]


def _words(tokenizer: HFTokenizer, spelling: Sequence[str]) -> tuple[int, ...]:
    vocabulary = tokenizer.get_vocab()
    numbers = [word for word in spelling if word.isdecimal()]
    prefix = next((p for p in PREFIXES if all(p + word in vocabulary for word in numbers)), "")
    space = next((s for s in SPACES if s in vocabulary), " ")
    tokens = [space if word == " " else prefix + word if word.isdecimal() else word for word in spelling]
    return _all(vocabulary, tokens, "set contract.tokens to append")


def _all(vocabulary: dict[str, int], tokens: Sequence[str], fix: str) -> tuple[int, ...]:
    missing = [token for token in tokens if token not in vocabulary]
    if missing:
        some = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
        raise UserError(f"{len(missing)} tokens are missing: {some}", "tokenizer", fix)
    return tuple(vocabulary[token] for token in tokens)


def _overwritten(tokenizer: HFTokenizer, count: int, start: int | None) -> tuple[int, ...]:
    skipped = {*tokenizer.all_special_ids, *(tokenizer.added_tokens_decoder if start is None else ())}
    first = tokenizer.vocab_size - 1 if start is None else start
    ids = [i for i in range(first, -1, -1) if i not in skipped][:count]
    if len(ids) < count or ids[0] >= len(tokenizer):
        raise UserError(f"no {count} tokens from id {first} backwards", "contract.tokens", "use append")
    return tuple(ids)
