"""Prompts: the contract's templates, cut into text and the place where the state's ids go.

The state never passes through text: its place stays a placeholder until ids are put there.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from enum import Enum

import numpy as np

from vla.contract import PolicyContract
from vla.errors import UserError
from vla.tokenization.sequence import Role, Sequence, piece


class Placeholder(Enum):
    """Something that is ids, not text."""

    STATE = "state"


Segment = str | Placeholder


def action_prompt(contract: PolicyContract, instruction: str) -> list[Segment]:
    """The segments of an action prompt; the instruction is normalised as the contract says and is never read as a template.

    Raises:
        UserError: the template has an unknown field, or no place for the instruction.
    """
    return _render(contract.prompt, "instruction", contract.instruction(instruction))


def question_prompt(contract: PolicyContract, question: str) -> list[Segment]:
    """The segments of a question prompt, as `action_prompt`."""
    return _render(contract.question, "question", contract.instruction(question))


def tokenize_prompt(segments: list[Segment], words: Callable[[str], Sequence], state_ids: np.ndarray | None) -> list[Sequence]:
    """Segments -> the parts of an unscored sequence: text as it is given, the state's ids as OBSERVATION.

    Args:
        words: text -> its sequence, of role PROMPT, adding no special tokens.
        state_ids: token ids [S] of the state's bins.

    Raises:
        UserError: the prompt has a place for a state and there is none.
    """
    parts = []
    for segment in segments:
        if isinstance(segment, str):
            parts.append(words(segment))
        elif state_ids is None:
            raise UserError("the prompt has {state}, but no state is given", "prompt")
        else:
            parts.append(piece(state_ids, Role.OBSERVATION))
    return parts


def _render(template: str, field: str, words: str) -> list[Segment]:
    segments: list[Segment] = []
    named = []
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"not a template: {error}", f"prompt {template!r}") from error
    for text, name, _, _ in parsed:
        named.append(name)
        words_here = words if name == field else ""
        if text or words_here:
            previous = segments.pop() if segments and isinstance(segments[-1], str) else ""
            segments.append(f"{previous}{text}{words_here}")
        if name == "state":
            segments.append(Placeholder.STATE)
        elif name not in (None, field):
            raise UserError(f"unknown field {{{name}}}", f"prompt {template!r}", f"use {{{field}}} or {{state}}")
    if field not in named:
        raise UserError(f"it has no {{{field}}}", f"prompt {template!r}")
    return segments
