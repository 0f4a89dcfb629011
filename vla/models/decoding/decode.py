"""Answers over a KV cache, token by token or a block at once: one decoder for all model families."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import torch

from vla.contract import Statistic
from vla.errors import UserError
from vla.models.decoding.allowed import Allowed, Block, Choice, Follow, Free, Ordinal, at, check
from vla.models.decoding.choose import likeliest, ordinal_choice
from vla.models.decoding.session import DecodingSession
from vla.models.decoding.static import StaticSteps
from vla.models.logprobs import allowed_mass, token_logprobs

TOKENS = 64
"""An answer's length where nothing says how long it may be."""


@dataclasses.dataclass
class Decoded:
    """What was written.

    Attributes:
        ids: [B, T]; after the end of an answer, its end token again and again.
        logprobs: [B, T] float32, of the token that was written, over the allowed words; 0 for forced tokens and after the end.
            At an ordinal place that need not be the likeliest word.
        valid_mass: [B, T] share of the whole vocabulary's probability that the allowed words had, if asked for; 1 after the end.
    """

    ids: torch.Tensor
    logprobs: torch.Tensor
    valid_mass: torch.Tensor | None = None


def static_steps(model: Any, compiled: bool = False) -> StaticSteps | None:
    """What reads an answer's tokens on a GPU; None where the model's own modules have to.

    Args:
        model: on its device; its weights may change later, but stay where they are.
        compiled: whether the operations of a step are fused first (`torch.compile`), which takes a minute at the first answer.
    """
    decoder = model.get_decoder()
    # Weights that several machines have parts of are gathered anew for each step.
    whole = not hasattr(next(decoder.parameters()), "device_mesh")
    return StaticSteps(decoder, compiled) if whole and model.device.type == "cuda" and StaticSteps.fits(decoder) else None


@torch.inference_mode()
def write(
    session: DecodingSession,
    allowed: Allowed = None,
    max_new_tokens: int | None = None,
    eos_id: int | None = None,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    valid_mass: bool = False,
    samples: int = 1,
    block: Block | None = None,
    ordinals: Sequence[Ordinal] = (),
) -> Decoded:
    """Writes an answer to each prompt of a session.

    Args:
        allowed: what may be written. A place of one word needs no call of the model.
        max_new_tokens: at most so many; by default as many as `allowed` asks for, or `TOKENS`.
        eos_id: ends an answer; None: only what is allowed and the number of tokens do.
        temperature: 0 takes the likeliest word, at an ordinal place (`Ordinal`) its statistic; above 0 samples with `generator`.
        valid_mass: whether to report it; then every step needs the whole vocabulary's logits.
        samples: answers to each prompt, which is read once; they stand one after the other: B is prompts times samples.
        block: places that are written at once, after those of `allowed`.
        ordinals: where all words are allowed and the likeliest is one of these lists', that list's statistic is written.

    Raises:
        UserError: several samples of the likeliest words, which are all the same; a block after nobody knows how many tokens; or
            nothing to write, or ids that the model does not have.
    """
    if samples < 1 or not 0 <= temperature < math.inf or (samples > 1 and temperature == 0):
        raise UserError(f"{samples} samples at temperature {temperature}", "decoding", "sample at a temperature above 0")
    check(allowed, session.vocabulary)
    if block is None and _steps(allowed, max_new_tokens) < 1:
        raise UserError("nothing is to be written", "decoding", "allow one token at least")
    if block is not None and (allowed is None or isinstance(allowed, Follow) or eos_id is not None):
        raise UserError("a block follows text of unknown length", "decoding", "give the places before it, and no end")
    rows, device = session.rows, session.device
    unread: list[torch.Tensor] = []
    tokens, logprobs, masses = [], [], []
    moved, ordinals = functools.cache(lambda table: table.to(device)), [ordinal.to(device) for ordinal in ordinals]
    done, free = torch.zeros(rows * samples, dtype=torch.bool, device=device), False
    for step in range(_steps(allowed, max_new_tokens)):
        place = at(allowed, step, tokens, rows, eos_id)
        if place is None:
            break
        statistic: Statistic = "mode"
        if isinstance(place, Free):
            # In company no call is spared: the last digits of an answer would depend on when the others' texts end.
            over = len(done) == 1 and bool(done)
            free, end, words, legal = True, place.end, torch.tensor([place.end], device=device) if over else None, None
        else:
            # What had ended was the text before.
            done = torch.zeros_like(done) if free else done
            free, end, statistic = False, eos_id, place.statistic
            words, legal = (None if table is None else moved(table) for table in (place.words, place.legal))
            if words is not None and legal is not None and len(done) == 1 and legal.sum() == 1:
                # Nor here: what one row is spared would depend on the others.
                words, legal = words[legal[0]], None
        if words is not None and len(words) == 1 and not valid_mass:
            token, logprob, mass = words.expand(rows), torch.zeros(rows, device=device), torch.ones(rows, device=device)
        else:
            fresh = torch.stack(unread, 1) if unread else torch.empty(rows, 0, dtype=torch.long, device=device)
            logits = session.read(fresh, None if valid_mass else words)[:, 0]
            unread = []
            if rows < len(done):
                # The first choice is where the samples part; all before it is the same for all of them.
                session.repeat(samples)
                rows, logits = len(done), logits.repeat_interleave(samples, 0)
                legal = None if legal is None else legal.repeat_interleave(samples, 0)
                tokens, logprobs, masses = (
                    [t.repeat_interleave(samples, 0) for t in part] for part in (tokens, logprobs, masses)
                )
            choice = Choice(words, legal, statistic)
            token, logprob, mass = _choose(logits, choice, () if free else ordinals, valid_mass, temperature, generator)
        if end is not None:
            ended = done[:rows]
            token = torch.where(ended, end, token)
            logprob, mass = logprob.masked_fill(ended, 0.0), mass.masked_fill(ended, 1.0)
            done = done | (token == end) if rows == len(done) else done
        unread.append(token)
        tokens.append(token)
        logprobs.append(logprob)
        masses.append(mass)
        if eos_id is not None and not free and bool(done.all()):
            break
    parts = [[torch.stack(part, 1)] for part in (tokens, logprobs, masses)] if tokens else [[], [], []]
    if block is not None:
        found = _at_once(session, block, unread, len(done) // rows, valid_mass, temperature, generator)
        parts = [
            [t.repeat_interleave(len(done) // rows, 0) for t in part] + [new] for part, new in zip(parts, found, strict=True)
        ]
    ids, chosen, mass = (torch.cat(part, 1) for part in parts)
    return Decoded(ids, chosen, mass if valid_mass else None)


def _steps(allowed: Allowed, most: int | None) -> int:
    places = TOKENS if allowed is None else len(allowed.places if isinstance(allowed, Follow) else allowed)
    return places if most is None else most if allowed is None else min(most, places)


def _at_once(
    session: DecodingSession, block: Block, unread: list[torch.Tensor], samples: int, valid_mass: bool, *how: Any
) -> tuple[torch.Tensor, ...]:
    """Ids, log-probabilities and masses [rows * samples, N] of a block, from one reading of its blanks and what is unread."""
    ahead, words, legal = len(block) - 1, block.words.to(session.device), block.legal.to(session.device)
    blanks = torch.full((session.rows, ahead), block.blank, device=session.device)
    fresh = torch.cat([torch.stack(unread, 1), blanks], 1) if unread else blanks
    logits = session.read(fresh, None if valid_mass else words, ahead, block.mutual).repeat_interleave(samples, 0)
    ordinal = block.ordinal.to(session.device)
    return _choose(logits, Choice(words, legal, block.statistic, ordinal), (), valid_mass, *how)


def _choose(
    logits: torch.Tensor,
    choice: Choice,
    ordinals: Sequence[Ordinal],
    valid_mass: bool,
    temperature: float,
    generator: torch.Generator | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What is chosen, its log-probability and the words' mass [...], from logits [..., V] or of the words alone [..., U]."""
    logits, words, legal = logits.float(), choice.words, choice.legal
    mass = torch.ones(logits.shape[:-1], device=logits.device)
    if words is not None and valid_mass:
        mass, logits = allowed_mass(logits, words, legal), logits[..., words]
    if legal is not None:
        logits = logits.masked_fill(~legal, -torch.inf)
    if temperature > 0:
        shares = (logits / temperature).softmax(-1)
        chosen = torch.multinomial(shares.flatten(0, -2), 1, generator=generator).view(shares.shape[:-1])
    elif words is None:
        chosen = likeliest(logits, ordinals)
    else:
        chosen = ordinal_choice(logits, choice.statistic)
        if choice.ordinal is not None:
            chosen = torch.where(choice.ordinal, chosen, logits.argmax(-1))
    return chosen if words is None else words[chosen], token_logprobs(logits, chosen), mass
