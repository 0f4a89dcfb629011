"""The images of a camera, in any of the forms in which data sets hold them, and what they hold instead."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vla.datasets.formats.readers.base import IMAGE_HEADS, Field, Frames, InMemoryFrames, Raw
from vla.errors import UserError

CHANNELS = (1, 3, 4)
INSTRUCTION = re.compile("task|instruction|language|text")


def frames_of(value: Any, key: str, where: str) -> Frames:
    """Returns the images that a card names by a key of a record.

    They may be `Frames`, encoded images, or uint8 arrays: grey [T, H, W], [T, H, W, C] or [T, C, H, W]; or bytes of encoded
    images, padded with zeros to one length [T, N].

    Raises:
        UserError: the values are not images of 8 bits; says what they are.
    """
    frames = _frames(value)
    if frames is None:
        forms = "images are uint8 [T, height, width, channels] or [T, height, width], or JPEG or PNG"
        what = f"{key} holds no images of 8 bits but {found(value)}; {forms}"
        raise UserError(what, where, _fix(value))
    return frames


def contents(raw: Raw) -> dict[str, Any]:
    """Returns the values of a record that can be read, by name."""
    values = {}
    for name in raw:
        with contextlib.suppress(UserError):
            values[name] = raw[name]
    return values


def fields_of(raw: Raw) -> dict[str, Field]:
    """Describes what a record holds, by name."""
    values = contents(raw)
    return {name: _field(values.get(name)) for name in raw}


def text_keys(fields: Mapping[str, Field]) -> list[str]:
    """The names of texts, those first that are likely to be an instruction."""
    return sorted((n for n, f in fields.items() if f.kind == "texts"), key=lambda n: not INSTRUCTION.search(n))


def _field(value: Any) -> Field:
    if _frames(value) is not None:
        return Field("images")
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.ndim:
        return Field("numbers", math.prod(value.shape[1:]), str(value.dtype))
    is_text = isinstance(value, str) or (isinstance(value, list) and bool(value) and isinstance(value[0], str | bytes))
    return Field("texts" if is_text else "other")


def named(values: dict[str, Any], most: int = 12) -> str:
    """Lists what a record holds, for messages."""
    entries = [f"{name} ({found(value)})" for name, value in values.items()]
    return ", ".join(entries[:most]) + f" and {len(entries) - most} more" * (len(entries) > most)


def no_cameras(raw: Raw) -> tuple[str, str]:
    """Says what a record without cameras holds instead, and what to do about it."""
    values = contents(raw)
    if images := {name: value for name, value in values.items() if _frames(value) is not None}:
        card = f"cameras: {{front: {{key: {next(iter(images))}}}}}"
        return (
            f"no images are known to be a camera's; it has {named(images)}",
            f"name its cameras in a card: --card FILE, with {card}",
        )
    if pixels := {name: value for name, value in values.items() if isinstance(value, np.ndarray) and value.ndim > 2}:
        return f"it has no images of 8 bits but {named(pixels)}", _fix(next(iter(pixels.values())))
    render = "to render the states of robosuite's demo.hdf5: --cameras agentview"
    fix = render if "states" in values else "a policy needs images: give data that have some"
    return f"it has no images but {named(values) or 'nothing that can be read'}", fix


def _fix(value: Any) -> str:
    """What to do about values that are no images."""
    shape = value.shape if isinstance(value, np.ndarray) else ()
    if not 3 <= len(shape) <= 4:
        return "name another key in the card"
    if value.dtype.kind == "f":
        return "write the images again as uint8, 0 to 255, or name another key in the card"
    return "name another key in the card: depth and other images of more than 8 bits are not read"


def found(value: Any) -> str:
    """Says what a record holds under a key."""
    if isinstance(value, Frames):
        return "images"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} values of shape {list(value.shape)}"
    if isinstance(value, list) and value:
        return f"{len(value)} {'texts' if isinstance(value[0], str) else 'byte strings'}"
    return "a text" if isinstance(value, str) else "nothing that can be read"


def channels_first(shape: tuple[int, ...]) -> bool:
    """Whether images of this shape [..., C, H, W] have their channels before the rows."""
    return shape[-1] not in CHANNELS and shape[-3] in CHANNELS


def _frames(value: Any) -> Frames | None:
    if isinstance(value, Frames):
        return value
    if isinstance(value, np.ndarray) and value.dtype == np.uint8:
        if value.ndim == 2:
            # Some data sets pad encoded images with zeros to the length of the longest.
            return _encoded([row.tobytes().rstrip(b"\0") for row in value])
        if value.ndim == 3:
            return InMemoryFrames(value[..., None])
        if value.ndim == 4:
            return InMemoryFrames(np.moveaxis(value, 1, -1) if channels_first(value.shape) else value)
    return _encoded(value) if isinstance(value, list) else None


def _encoded(images: list[Any]) -> Frames | None:
    heads = [isinstance(image, bytes) and image.startswith(IMAGE_HEADS) for image in images]
    return InMemoryFrames(images) if any(heads) else None
