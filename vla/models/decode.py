"""Answers, token by token, over a key-value cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from transformers import DynamicCache

from vla.models.logprobs import allowed_mass, token_logprobs


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


@torch.inference_mode()
def generate(
    model,
    ids: torch.Tensor,
    prefix_mask: torch.Tensor,
    attention: torch.Tensor,
    pixel_values: torch.Tensor | None,
    allowed: Sequence[Sequence[int] | None] | None = None,
    max_new_tokens: int = 64,
    eos_id: int | None = None,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    valid_mass: bool = False,
) -> Decoded:
    """Continues prompts of unequal length; a prompt's answer does not depend on its company (up to rounding).

    Args:
        model: a `TinyVLM`.
        ids: [B, L] prompts, padded on the right.
        prefix_mask: [B, L] True where a token belongs to the bidirectional prefix.
        attention: [B, L] False is padding.
        pixel_values: [B, C, 3, H, W] in [-1, 1].
        allowed: the words allowed at each step, all of them where None; as many steps as it is long. A step with one
            word costs no call of the model.
        max_new_tokens: at most so many.
        eos_id: ends an answer; None: only the number of tokens does.
        temperature: 0 takes the likeliest word, else samples with `generator`.
        valid_mass: whether to report it; then every step needs the whole vocabulary's logits.
    """
    steps = max_new_tokens if allowed is None else min(max_new_tokens, len(allowed))
    reader = _Reader(model, ids, prefix_mask.bool(), attention.bool(), pixel_values)
    done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    tokens, logprobs, masses = [], [], []
    for step in range(steps):
        words = None if allowed is None or allowed[step] is None else torch.as_tensor(allowed[step], device=ids.device)
        logprob, mass = torch.zeros(len(ids), device=ids.device), torch.ones(len(ids), device=ids.device)
        if words is not None and len(words) == 1 and not valid_mass:
            token = words.expand(len(ids))
        else:
            logits = reader.next(None if valid_mass else words).float()
            if words is not None and valid_mass:
                mass, logits = allowed_mass(logits, words), logits[:, words]
            choice = _choose(logits, temperature, generator)
            logprob = token_logprobs(logits, choice)
            token = choice if words is None else words[choice]
        if eos_id is not None:
            token = torch.where(done, eos_id, token)
            logprob = logprob.masked_fill(done, 0.0)
            done = done | (token == eos_id)
        reader.unread.append(token)
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


class _Reader:
    """Feeds the model what it has not read yet: first the prompt, later the tokens written since."""

    def __init__(self, model, ids, prefix, attention, pixels):
        self.model, self.ids, self.prefix, self.attention, self.pixels = model, ids, prefix, attention, pixels
        self.unread: list[torch.Tensor] = []
        self.cache = DynamicCache()

    def next(self, words: torch.Tensor | None) -> torch.Tensor:
        """Logits of the next token, [B, V], or of these words only."""
        first = self.cache.get_seq_length() == 0
        fresh = torch.stack(self.unread, 1) if self.unread else self.ids[:, :0]
        self.attention = torch.cat([self.attention, torch.ones_like(fresh, dtype=torch.bool)], 1)
        self.prefix = torch.cat([self.prefix, torch.zeros_like(fresh, dtype=torch.bool)], 1)
        hidden = self.model.hidden(
            torch.cat([self.ids, fresh], 1) if first else fresh,
            self.pixels if first else None,
            self.attention,
            self.prefix,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        if self.unread:
            last = hidden[:, -1]
        else:
            place = torch.arange(self.ids.shape[1], device=self.ids.device)
            last = hidden[torch.arange(len(hidden)), (place * self.attention).argmax(1)]
        self.unread = []
        return self.model.logits(last, words)
