"""Answers, token by token, over kept keys and values: one decoder for our own models and for those of transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vla.errors import UserError
from vla.models.logprobs import allowed_mass, token_logprobs
from vla.models.readers import HubReader, PrefixReader, Reader

Allowed = Sequence[Sequence[int] | None] | None
"""The words allowed at each step, all of them where None; as many steps as it is long."""


@dataclasses.dataclass
class Decoded:
    """What was written.

    Attributes:
        ids: [B, T]; after the end of an answer, its end token again and again.
        logprobs: [B, T] float32, over the allowed words; 0 for forced tokens and after the end.
        valid_mass: [B, T] share of the whole vocabulary's probability that the allowed words had, if asked for.
    """

    ids: torch.Tensor
    logprobs: torch.Tensor
    valid_mass: torch.Tensor | None = None


def generate(
    model: Any,
    ids: torch.Tensor,
    prefix_mask: torch.Tensor,
    attention: torch.Tensor,
    pixel_values: torch.Tensor | None,
    allowed: Allowed = None,
    **how: Any,
) -> Decoded:
    """Continues prompts of unequal length with a `TinyVLM`; a prompt's answer does not depend on its company (up to rounding).

    Args:
        ids: [B, L] prompts, padded on the right.
        prefix_mask: [B, L] True where a token belongs to the bidirectional prefix.
        attention: [B, L] False is padding.
        pixel_values: [B, C, 3, H, W] in [-1, 1].
        allowed, how: as for `write`.
    """
    return write(PrefixReader(model, ids, prefix_mask, attention, pixel_values), allowed, **how)


def generate_from(
    model: Any, inputs: Mapping[str, Any], allowed: Sequence[Sequence[int] | None] | None = None, **how: Any
) -> Decoded:
    """The same with any image-text-to-text model of transformers.

    Args:
        model: of `AutoModelForImageTextToText`.
        inputs: as its processor makes them, prompts of unequal length padded on the left.
        allowed, how: as for `write`.
    """
    return write(HubReader(model, inputs), allowed, **how)


@torch.inference_mode()
def write(
    reader: Reader,
    allowed: Allowed = None,
    max_new_tokens: int = 64,
    eos_id: int | None = None,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    valid_mass: bool = False,
    samples: int = 1,
) -> Decoded:
    """Writes an answer to each prompt of a reader.

    Args:
        allowed: the words allowed at each step, all of them where None; as many steps as it is long. A step with one
            word costs no call of the model.
        max_new_tokens: at most so many.
        eos_id: ends an answer; None: only the number of tokens does.
        temperature: 0 takes the likeliest word, else samples with `generator`.
        valid_mass: whether to report it; then every step needs the whole vocabulary's logits.
        samples: answers to each prompt, which is read once; they stand one after the other: B is prompts times samples.

    Raises:
        UserError: several samples of the likeliest words, which are all the same.
    """
    if samples < 1 or (samples > 1 and temperature == 0):
        raise UserError(f"{samples} samples at temperature {temperature}", "decoding", "sample at a temperature above 0")
    steps = max_new_tokens if allowed is None else min(max_new_tokens, len(allowed))
    unread: list[torch.Tensor] = []
    tokens, logprobs, masses = [], [], []
    rows, device = reader.rows, reader.device
    done = torch.zeros(rows * samples, dtype=torch.bool, device=device)
    for step in range(steps):
        words = None if allowed is None or allowed[step] is None else torch.as_tensor(allowed[step], device=device)
        logprob, mass = torch.zeros(rows, device=device), torch.ones(rows, device=device)
        if words is not None and len(words) == 1 and not valid_mass:
            token = words.expand(rows)
        else:
            fresh = torch.stack(unread, 1) if unread else torch.empty(rows, 0, dtype=torch.long, device=device)
            logits = reader.read(fresh, None if valid_mass else words).float()
            unread = []
            if rows < len(done):
                # The first choice is where the samples part; all before it is the same for all of them.
                reader.repeat(samples)
                rows, logits = len(done), logits.repeat_interleave(samples, 0)
                tokens, logprobs, masses = (
                    [t.repeat_interleave(samples, 0) for t in part] for part in (tokens, logprobs, masses)
                )
            if words is not None and valid_mass:
                mass, logits = allowed_mass(logits, words), logits[:, words]
            choice = _choose(logits, temperature, generator)
            logprob = token_logprobs(logits, choice)
            token = choice if words is None else words[choice]
        if eos_id is not None:
            ended = done[:rows]
            token = torch.where(ended, eos_id, token)
            logprob = logprob.masked_fill(ended, 0.0)
            done = done | (token == eos_id) if rows == len(done) else done
        unread.append(token)
        tokens.append(token)
        logprobs.append(logprob)
        masses.append(mass)
        if eos_id is not None and bool(done.all()):
            break
    return Decoded(torch.stack(tokens, 1), torch.stack(logprobs, 1), torch.stack(masses, 1) if valid_mass else None)


def _choose(logits: torch.Tensor, temperature: float, generator: torch.Generator | None) -> torch.Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
