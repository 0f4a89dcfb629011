"""Prompts: the contract's templates, cut into text, the marks of a chat template, and the places where ids and pictures go.

The state never passes through text: its place stays a placeholder until ids are put there.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

import numpy as np

from vla.contract import PolicyContract
from vla.errors import UserError
from vla.tokenization.sequence import Role, Sequence, piece

RT2 = "Q: what action should the robot take to {instruction}? A:"
"""RT-2's question (Brohan et al. 2023, section 3.2)."""
OPENVLA = "In: What action should the robot take to {instruction}?\nOut: "
"""OpenVLA's, with `normalise: lower`; the closing space is its token 29871."""


class Placeholder(Enum):
    """Something that is ids, not text."""

    STATE = "state"
    IMAGES = "images"
    """All pictures that have no place yet."""
    IMAGE = "image"
    """The next picture."""


class Mark(str):
    """Text of a chat template: its special tokens are tokens, where a user who types them writes letters."""


Segment = str | Placeholder


def action_prompt(contract: PolicyContract, instruction: str, processor: Any = None) -> list[Segment]:
    """The segments of an action prompt; the instruction is normalised as the contract says and is never read as a template.

    Args:
        contract: its `prompt`, and whether it is wrapped in a chat template.
        instruction: what the robot is told.
        processor: has the chat template (or its `tokenizer` has).

    Raises:
        UserError: the template has an unknown field, or no place for the instruction; there is no chat template.
    """
    return _chat(contract, _render(contract.prompt, "instruction", contract.instruction(instruction)), processor)


def question_prompt(contract: PolicyContract, question: str, processor: Any = None) -> list[Segment]:
    """The segments of a question prompt, as `action_prompt`."""
    return _chat(contract, _render(contract.question, "question", contract.instruction(question)), processor)


def tokenize_prompt(
    segments: list[Segment],
    words: Callable[[str], Sequence],
    state_ids: np.ndarray | None,
    pictures: Iterable[Sequence] = (),
) -> tuple[list[Sequence], list[Sequence]]:
    """Segments -> the parts of an unscored sequence: text as it is given, the state's ids as OBSERVATION.

    Args:
        words: text (a `Mark`: with special tokens) -> its sequence, of role PROMPT, adding no special tokens.
        state_ids: token ids [S] of the state's bins.
        pictures: the placeholders of each picture; those without a place stand before everything.

    Returns:
        The parts up to the last picture, and the rest.

    Raises:
        UserError: the prompt has a place for a state or for a picture and there is none.
    """
    parts: list[Sequence] = []
    left, last = list(pictures), 0
    if Placeholder.IMAGE not in segments and Placeholder.IMAGES not in segments:
        segments = [Placeholder.IMAGES, *segments]
    for segment in segments:
        if isinstance(segment, str):
            parts.append(words(segment))
        elif segment is Placeholder.STATE:
            if state_ids is None:
                raise UserError("the prompt has {state}, but no state is given", "prompt")
            parts.append(piece(state_ids, Role.OBSERVATION))
        else:
            count = len(left) if segment is Placeholder.IMAGES else 1
            if len(left) < count:
                raise UserError("the chat template has more pictures than there are", "prompt")
            parts, left = parts + left[:count], left[count:]
            last = len(parts)
    if left:
        raise UserError(f"{len(left)} pictures have no place", "prompt", "say {images} once")
    return parts[:last], parts[last:]


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
        if name in ("state", "images"):
            segments.append(Placeholder(name))
        elif name not in (None, field):
            raise UserError(f"unknown field {{{name}}}", f"prompt {template!r}", f"use {{{field}}}, {{state}} or {{images}}")
    if field not in named:
        raise UserError(f"it has no {{{field}}}", f"prompt {template!r}")
    if named.count("images") > 1:
        raise UserError("it has {images} twice", f"prompt {template!r}")
    return segments


CONTENT = "vla content"
"""Stands for the user's words while a chat template is filled in: they are put there afterwards, unread."""


def _chat(contract: PolicyContract, segments: list[Segment], processor: Any) -> list[Segment]:
    """The segments as the user's turn of the chat template, the assistant's being next; pictures where the template puts them."""
    if not contract.chat:
        return segments
    pictures = len(contract.embodiment().cameras) * contract.history
    images = [{"type": "image"}] * pictures
    text = {"type": "text", "text": CONTENT}
    # Words of the prompt before {images} make it words first.
    after = Placeholder.IMAGES in segments and segments.index(Placeholder.IMAGES) > 0
    words = [s for s in segments if s is not Placeholder.IMAGES]
    filled = _fill(processor, [text, *images] if after else [*images, text])
    image = getattr(processor, "image_token", None) or "<image>"
    parts: list[Segment] = []
    for part in re.split(f"({CONTENT}|{re.escape(image)})", filled):
        if part == CONTENT:
            parts += words
        elif part:
            parts.append(Placeholder.IMAGE if part == image else Mark(part))
    if sum(p is Placeholder.IMAGE for p in parts) not in (0, pictures) or filled.count(CONTENT) != 1:
        raise UserError(f"it has other places than one for words and {pictures} for pictures", "chat template", "set chat: false")
    return parts


def _fill(processor: Any, content: list[dict[str, str]]) -> str:
    """The chat template with this turn; one for text alone gets the text alone."""
    owner = next((o for o in (processor, getattr(processor, "tokenizer", None)) if getattr(o, "chat_template", None)), None)
    if owner is None:
        raise UserError("the model has no chat template", "contract.chat", "set chat: false")

    def fill(content: Any) -> str:
        turn = [{"role": "user", "content": content}]
        return owner.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)

    try:
        filled = fill(content)
    except Exception:  # noqa: BLE001 - whatever a template of somebody's makes of a list
        filled = ""
    # A template that knows no lists prints them.
    return filled if CONTENT in filled and "'type'" not in filled else fill(CONTENT)
