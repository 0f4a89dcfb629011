"""Prompts: the contract's templates as segments of text, chat-template marks, and placeholders for state and images.

The state never passes through text: it is a placeholder until its ids are inserted.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from vla.contract import PolicyContract
from vla.errors import UserError
from vla.tokenization.sequence import Role, Sequence, piece

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    Processor = ProcessorMixin | PreTrainedTokenizerBase
    ChatContent = str | list[dict[str, str]]

RT2 = "Q: what action should the robot take to {instruction}? A:"
"""RT-2's question (Brohan et al. 2023, section 3.2)."""
OPENVLA = "In: What action should the robot take to {instruction}?\nOut: "
"""OpenVLA's prompt, for `normalise: lower`; the final space is its token 29871."""
OPENVLA_V01 = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
    "answers to the user's questions. USER: What action should the robot take to {instruction}? ASSISTANT: "
)
"""The prompt of OpenVLA v0.1, whose language model is Vicuna."""


class Placeholder(Enum):
    """A segment that is ids, not text."""

    STATE = "state"
    IMAGES = "images"
    """All remaining images."""
    IMAGE = "image"
    """The next image."""


class Mark(str):
    """Text of a chat template. Special tokens are read in it, but not in a user's text."""


class Words(str):
    """An instruction or question that stands apart, for a model that reads it by a text encoder."""


Segment = str | Placeholder


def action_prompt(
    contract: PolicyContract, instruction: str, processor: Processor | None = None, image_text: str = "", apart: bool = False
) -> list[Segment]:
    """The segments of an action prompt. The instruction is normalised as the contract says, and never read as a template.

    Args:
        contract: provides `prompt`, and `chat` if it is wrapped in a chat template.
        instruction: the instruction to the robot.
        processor: has the chat template, itself or in its `tokenizer`.
        image_text: what stands for an image in the chat template; "" is the processor's `image_token`.
        apart: whether the instruction is a segment of its own, `Words`.

    Raises:
        UserError: the template has an unknown field or no field for the instruction, or there is no chat template.
    """
    segments = _render(contract.prompt, "instruction", contract.instruction(instruction), apart)
    return _chat(contract, segments, processor, image_text)


def question_prompt(
    contract: PolicyContract, question: str, processor: Processor | None = None, image_text: str = "", apart: bool = False
) -> list[Segment]:
    """The segments of a question prompt; see `action_prompt`."""
    segments = _render(contract.question, "question", contract.instruction(question), apart)
    return _chat(contract, segments, processor, image_text)


def tokenize_prompt(
    segments: list[Segment],
    words: Callable[[str], Sequence],
    state_ids: np.ndarray | None,
    images: Iterable[Sequence] = (),
) -> tuple[list[Sequence], list[Sequence]]:
    """Segments -> the parts of an unscored sequence.

    Args:
        segments: segments of a prompt. Without an image placeholder all images come first.
        words: tokenizes text to a sequence of role PROMPT. It adds no special tokens, and reads them only in a `Mark`.
        state_ids: token ids [S] of the state's bins; their role is OBSERVATION.
        images: the image tokens of each image.

    Returns:
        The parts up to the last image, and the rest.

    Raises:
        UserError: a placeholder has no state or image, or an image has no placeholder.
    """
    parts: list[Sequence] = []
    remaining, end_of_images = list(images), 0
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
            count = len(remaining) if segment is Placeholder.IMAGES else 1
            if len(remaining) < count:
                raise UserError("the chat template has more images than there are", "prompt")
            parts, remaining = parts + remaining[:count], remaining[count:]
            end_of_images = len(parts)
    if remaining:
        raise UserError(f"{len(remaining)} images have no placeholder", "prompt", "use {images} once")
    return parts[:end_of_images], parts[end_of_images:]


def _render(template: str, field: str, words: str, apart: bool) -> list[Segment]:
    """Splits a template into segments, with `words` for its field, which may stand apart."""
    segments: list[Segment] = []
    fields = []
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"not a template: {error}", f"prompt {template!r}") from error
    for text, name, _, _ in parsed:
        fields.append(name)
        value = words if name == field else ""
        joined = text if apart else text + value
        if joined:
            previous = segments.pop() if segments and type(segments[-1]) is str else ""
            segments.append(f"{previous}{joined}")
        if apart and name == field:
            segments.append(Words(words))
        if name in ("state", "images"):
            segments.append(Placeholder(name))
        elif name not in (None, field):
            raise UserError(f"unknown field {{{name}}}", f"prompt {template!r}", f"use {{{field}}}, {{state}} or {{images}}")
    if field not in fields:
        raise UserError(f"it has no {{{field}}}", f"prompt {template!r}")
    if fields.count("images") > 1:
        raise UserError("it has {images} twice", f"prompt {template!r}")
    return segments


CONTENT = "vla content"
"""Stands for the user's words while a chat template is rendered, so that the template engine never reads them."""


def _chat(contract: PolicyContract, segments: list[Segment], processor: Processor | None, image_text: str) -> list[Segment]:
    """The segments as the user's turn of the chat template, followed by the assistant's; the template places the images."""
    if not contract.chat:
        return segments
    image_count = len(contract.embodiment().cameras) * contract.history
    images = [{"type": "image"}] * image_count
    text = {"type": "text", "text": CONTENT}
    # If the prompt has words before {images}, all its words come before the images.
    words_first = Placeholder.IMAGES in segments and segments.index(Placeholder.IMAGES) > 0
    words = [s for s in segments if s is not Placeholder.IMAGES]
    rendered = _render_chat(processor, [text, *images] if words_first else [*images, text])
    image_token = image_text or getattr(processor, "image_token", None) or "<image>"
    parts: list[Segment] = []
    for part in re.split(f"({CONTENT}|{re.escape(image_token)})", rendered):
        if part == CONTENT:
            parts += words
        elif part:
            parts.append(Placeholder.IMAGE if part == image_token else Mark(part))
    if sum(p is Placeholder.IMAGE for p in parts) not in (0, image_count) or rendered.count(CONTENT) != 1:
        raise UserError(f"it does not render one text and {image_count} images", "chat template", "set chat: false")
    return parts


def _render_chat(processor: Processor | None, content: list[dict[str, str]]) -> str:
    """The chat template with this user turn. A template for text alone gets only the text."""
    owner = next((o for o in (processor, getattr(processor, "tokenizer", None)) if getattr(o, "chat_template", None)), None)
    if owner is None:
        raise UserError("the model has no chat template", "contract.chat", "set chat: false")

    def render(content: ChatContent) -> str:
        turn = [{"role": "user", "content": content}]
        return str(owner.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))

    try:
        rendered = render(content)
    except Exception:  # noqa: BLE001 - a template for text may raise anything when it gets a list
        rendered = ""
    # Other templates for text print the list.
    return rendered if CONTENT in rendered and "'type'" not in rendered else render(CONTENT)
