"""The decoder of all model families: writes answers token by token over a KV cache, or a block at once."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from vla.contract import Statistic
from vla.errors import UserError
from vla.models.decoding.allowed import Allowed, Block, Choice, Follow, Free, Ordinal, at, check
from vla.models.decoding.choose import likeliest, ordinal_choice
from vla.models.decoding.cpu_llama_step import CpuLlamaStep
from vla.models.decoding.session import DecodingSession, FastSteps
from vla.models.decoding.static import StaticSteps
from vla.models.logprobs import allowed_mass, token_logprobs

TOKENS = 64
"""Default maximum length of an answer in tokens."""


@dataclasses.dataclass
class Decoded:
    """The answers of a batch.

    Attributes:
        ids: [B, T]; after the end of an answer its end token is repeated.
        logprobs: [B, T] float32, log-probabilities of the written tokens over the allowed words; 0 for forced tokens and after
            the end. An ordinal token need not be the likeliest word.
        valid_mass: [B, T] probability of all allowed words over the whole vocabulary, if requested; 1 after the end.
    """

    ids: torch.Tensor
    logprobs: torch.Tensor
    valid_mass: torch.Tensor | None = None


def fast_steps(model: PreTrainedModel, compiled: bool = False) -> FastSteps | None:
    """Returns the decoding steps of a model: static ones on a GPU, lean ones of Llama and Qwen2 on a CPU; None if its own modules
    must be used.

    Args:
        model: on its device; its weights may change later, but not move.
        compiled: whether to fuse the operations of a step on a GPU (`torch.compile`), which takes a minute at the first answer.
    """
    decoder = model.get_decoder()
    if CpuLlamaStep.fits(decoder):
        return CpuLlamaStep(decoder)
    # Sharded weights (FSDP) are gathered anew for each step, at no fixed address.
    unsharded = not hasattr(next(decoder.parameters()), "device_mesh")
    return StaticSteps(decoder, compiled) if unsharded and model.device.type == "cuda" and StaticSteps.fits(decoder) else None


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
        allowed: the words that may be written. A position with a single word needs no call of the model.
        max_new_tokens: maximum length of an answer; by default the number of allowed positions, or `TOKENS`.
        eos_id: token that ends an answer; None: answers end only by `allowed` and `max_new_tokens`.
        temperature: 0 writes the likeliest word, or the statistic of an ordinal position (`Ordinal`); above 0 words are sampled.
        generator: random numbers for sampling.
        valid_mass: whether to compute `Decoded.valid_mass`; every step then needs the whole vocabulary's logits.
        samples: answers per prompt. A prompt is read once, and its answers are adjacent rows: B is prompts times samples.
        block: positions that are written at once, after those of `allowed`.
        ordinals: where all words are allowed and the likeliest is in one of these lists, that list's statistic is written.

    Raises:
        UserError: several samples at temperature 0, which would all be equal; a block after text of unknown length; nothing to
            write; or ids that the model does not have.
    """
    if samples < 1 or not 0 <= temperature < math.inf or (samples > 1 and temperature == 0):
        raise UserError(f"{samples} samples at temperature {temperature}", "decoding", "sample at a temperature above 0")
    check(allowed, session.vocabulary)
    if block is None and _steps(allowed, max_new_tokens) < 1:
        raise UserError("nothing is to be written", "decoding", "allow at least one token")
    if block is not None and (allowed is None or isinstance(allowed, Follow) or eos_id is not None):
        raise UserError("a block follows text of unknown length", "decoding", "give a list of positions before it, and no eos_id")
    rows, device = session.rows, session.device
    unread: list[torch.Tensor] = []
    tokens, logprobs, masses = [], [], []
    to_device, ordinals = functools.cache(lambda table: table.to(device)), [ordinal.to(device) for ordinal in ordinals]
    ended, free = torch.zeros(rows * samples, dtype=torch.bool, device=device), False
    for step in range(_steps(allowed, max_new_tokens)):
        position = at(allowed, step, tokens, rows, eos_id)
        if position is None:
            break
        statistic: Statistic = "mode"
        if isinstance(position, Free):
            # With several rows no call is skipped: the last digits of an answer would depend on when other rows' texts end.
            over = len(ended) == 1 and bool(ended)
            free, end, words, legal = True, position.end, torch.tensor([position.end], device=device) if over else None, None
        else:
            # It was the free text that ended, not the answer.
            ended = torch.zeros_like(ended) if free else ended
            free, end, statistic = False, eos_id, position.statistic
            words, legal = (None if table is None else to_device(table) for table in (position.words, position.legal))
            if words is not None and legal is not None and len(ended) == 1 and legal.sum() == 1:
                # Skipped for a single row only, for the same reason.
                words, legal = words[legal[0]], None
        if words is not None and len(words) == 1 and not valid_mass:
            token, logprob, mass = words.expand(rows), torch.zeros(rows, device=device), torch.ones(rows, device=device)
        else:
            fresh = torch.stack(unread, 1) if unread else torch.empty(rows, 0, dtype=torch.long, device=device)
            logits = session.read(fresh, None if valid_mass else words)[:, 0]
            unread = []
            if rows < len(ended):
                # Samples of a prompt differ from the first choice on; everything before it is shared.
                session.repeat(samples)
                rows, logits = len(ended), logits.repeat_interleave(samples, 0)
                legal = None if legal is None else legal.repeat_interleave(samples, 0)
                tokens, logprobs, masses = (
                    [t.repeat_interleave(samples, 0) for t in part] for part in (tokens, logprobs, masses)
                )
            choice = Choice(words, legal, statistic)
            token, logprob, mass = _choose(logits, choice, () if free else ordinals, valid_mass, temperature, generator)
        if end is not None:
            over = ended[:rows]
            token = torch.where(over, end, token)
            logprob, mass = logprob.masked_fill(over, 0.0), mass.masked_fill(over, 1.0)
            ended = ended | (token == end) if rows == len(ended) else ended
        unread.append(token)
        tokens.append(token)
        logprobs.append(logprob)
        masses.append(mass)
        if eos_id is not None and not free and bool(ended.all()):
            break
    parts = [[torch.stack(part, 1)] for part in (tokens, logprobs, masses)] if tokens else [[], [], []]
    if block is not None:
        written = _at_once(session, block, unread, len(ended) // rows, valid_mass, temperature, generator)
        parts = [
            [t.repeat_interleave(len(ended) // rows, 0) for t in part] + [last] for part, last in zip(parts, written, strict=True)
        ]
    ids, chosen, mass = (torch.cat(part, 1) for part in parts)
    return Decoded(ids, chosen, mass if valid_mass else None)


def _steps(allowed: Allowed, most: int | None) -> int:
    """Returns the maximum number of tokens that are written one by one."""
    positions = TOKENS if allowed is None else len(allowed.positions if isinstance(allowed, Follow) else allowed)
    return positions if most is None else most if allowed is None else min(most, positions)


def _at_once(
    session: DecodingSession,
    block: Block,
    unread: list[torch.Tensor],
    samples: int,
    valid_mass: bool,
    temperature: float,
    generator: torch.Generator | None,
) -> tuple[torch.Tensor, ...]:
    """Writes a block in one call of the model. Returns ids, log-probabilities and masses [rows * samples, N]."""
    ahead, words, legal = len(block) - 1, block.words.to(session.device), block.legal.to(session.device)
    blanks = torch.full((session.rows, ahead), block.blank, device=session.device)
    fresh = torch.cat([torch.stack(unread, 1), blanks], 1) if unread else blanks
    logits = session.read(fresh, None if valid_mass else words, ahead, block.mutual).repeat_interleave(samples, 0)
    choice = Choice(words, legal, block.statistic, block.ordinal.to(session.device))
    return _choose(logits, choice, (), valid_mass, temperature, generator)


def _choose(
    logits: torch.Tensor,
    choice: Choice,
    ordinals: Sequence[Ordinal],
    valid_mass: bool,
    temperature: float,
    generator: torch.Generator | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns ids, log-probabilities and the words' masses [...], from logits [..., V] or of the words alone [..., U]."""
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
