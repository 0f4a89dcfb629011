"""Reads a client's request as an Observation that fits the contract; errors say what was expected and what came."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vla.contract import Camera, Embodiment, PolicyContract
from vla.errors import ContractMismatch, UserError
from vla.observation import Observation
from vla.protocols.wire import Value, decode_array, decode_base64
from vla.transforms import Resize

Images = dict[str, np.ndarray]
MAX_TEXT = 2000
SMALL = 2**18
"""Largest size (elements) of an image that is read on the event loop."""
FIELDS = ("id", "images", "state", "instruction", "prompt", "embodiment")
QUESTION_FIELDS = ("images", "question")


def is_quick_to_read(request: Value) -> bool:
    """Whether all images are small arrays, which are read faster than a thread is started for them."""
    images = request.get("images") if isinstance(request, dict) else None
    return isinstance(images, dict) and all(isinstance(image, np.ndarray) and image.size <= SMALL for image in images.values())


def read_observation(request: Value, contract: PolicyContract, side: int, any_size: bool = False) -> Observation:
    """Reads {"id"?, "images", "state", "instruction" or "prompt", "embodiment"?}; images and state may be arrays (msgpack).

    The state may be missing if the prompt has none.

    Args:
        side: the longest side of an image that is accepted, in pixels.
        any_size: whether images stay as they are; else they are scaled down to the contract's sizes.

    Raises:
        UserError: a field is missing, unknown or of the wrong type, or an image cannot be read.
        ContractMismatch: a camera, size, dtype, state or embodiment is not in the contract.
    """
    fields = _fields(request, FIELDS)
    if "prompt" in fields:
        if "instruction" in fields:
            raise UserError("given beside `instruction`, which means the same", "prompt", "send one of them")
        fields = {**fields, "instruction": fields["prompt"]}
    name = read_text(fields, "embodiment", "")
    embodiment = contract.embodiment(name)
    state: Any = fields["state"] if "state" in fields else unused_state(contract, embodiment)
    return Observation(
        id=read_text(fields, "id", "default"),
        images=_images(fields.get("images"), embodiment, side, any_size),
        state=_state(state, embodiment),
        instruction=read_text(fields, "instruction"),
        embodiment=name,
    )


def unused_state(contract: PolicyContract, embodiment: Embodiment) -> list[float] | None:
    """The state of a request that has none, amid the limits; None if the policy reads it in its prompt."""
    space = embodiment.state
    if space.size and "{state}" in contract.prompt:
        return None
    return [(low + high) / 2 for low, high in zip(space.low, space.high, strict=True)]


def read_question(request: Value, contract: PolicyContract, side: int) -> tuple[Images, str]:
    """Reads {"images", "question"}; the images are those of the first embodiment's cameras."""
    fields = _fields(request, QUESTION_FIELDS)
    return _images(fields.get("images"), contract.embodiment(), side), read_text(fields, "question")


def _fields(request: Value, known: tuple[str, ...]) -> dict[str, Value]:
    """Returns the request. Raises UserError unless it is a map that has these fields only."""
    if not isinstance(request, dict):
        raise UserError(f"expected an object, got {type(request).__name__}", "request", f"send {', '.join(known)}")
    for key in request:
        if key not in known:
            raise UserError(f"unknown field {str(key)[:60]!r}", "request", f"known are {', '.join(known)}")
    return request


def read_text(fields: Mapping[str, Value], field: str, default: str | None = None) -> str:
    """Returns a text field of the request, or `default` if it is missing (None: the field is required)."""
    value = fields.get(field, default)
    if value is None:
        raise UserError("missing", field, f"send {field} as text")
    if not isinstance(value, str):
        raise UserError(f"expected text, got {type(value).__name__}", field)
    if len(value) > MAX_TEXT:
        raise UserError(f"{len(value)} characters, at most {MAX_TEXT} are allowed", field)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError("half a character (a lone surrogate)", field, "send whole Unicode text") from None
    return value


def _images(images: Value, embodiment: Embodiment, side: int, any_size: bool = False) -> Images:
    names = [camera.name for camera in embodiment.cameras]
    expected = f"send images from {', '.join(names)}"
    if not isinstance(images, dict):
        raise UserError(f"expected camera name -> image, got {type(images).__name__}", "images", expected)
    for name in images:
        if name not in names:
            raise ContractMismatch(f"unknown camera {str(name)[:60]!r}", "images", expected)
    for name in names:
        if name not in images:
            received = ", ".join(map(str, images))[:200] or "none"
            raise ContractMismatch(f"camera {name!r} is missing, got {received}", "images", expected)
    read = {c.name: _image(images[c.name], f"images.{c.name}", side) for c in embodiment.cameras}
    return read if any_size else {c.name: fit_camera(read[c.name], c) for c in embodiment.cameras}


def _image(value: Value, where: str, side: int) -> np.ndarray:
    if isinstance(value, str):
        return _compressed(decode_base64(value, where), where, side)
    if isinstance(value, bytes):
        return _compressed(value, where, side)
    if isinstance(value, dict):
        value = decode_array(value, where)
    if not isinstance(value, np.ndarray):
        raise UserError(f"expected an image, got {type(value).__name__}", where, "send a JPEG or PNG file in base64, or an array")
    if value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != 3:
        raise ContractMismatch(f"got {value.dtype} {list(value.shape)}", where, "expected uint8 [height, width, 3], upright RGB")
    if max(value.shape) > side:
        raise UserError(f"{value.shape[1]} x {value.shape[0]} pixels, at most {side} per side", where)
    return value


def _compressed(content: bytes, where: str, side: int) -> np.ndarray:
    """Decodes a JPEG or PNG file to uint8 [H, W, 3], upright by its EXIF tag. The size is checked before pixels are decoded."""
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            if max(image.size) > side:
                raise UserError(f"{image.width} x {image.height} pixels, at most {side} per side", where)
            if image.mode not in ("RGB", "RGBA", "P"):
                raise ContractMismatch(f"an image of mode {image.mode}", where, "expected 8-bit RGB")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001
        # A damaged file can make the decoder raise anything: struct.error, KeyError … Its message for an unknown format names
        # an object in memory.
        why = "it is damaged, or neither JPEG nor PNG" if isinstance(error, UnidentifiedImageError) else str(error)[:120]
        raise UserError(f"the image cannot be read: {why}", where, "send a whole JPEG or PNG file in base64") from None


def fit_camera(image: np.ndarray, camera: Camera) -> np.ndarray:
    """Scales an image down to the camera's size, as in training.

    Raises:
        ContractMismatch: the image is too small or has another aspect ratio. The ratio fits if scaling to the camera's height
            gives its width to the nearest pixel.
    """
    height, width = image.shape[:2]
    if (height, width) == (camera.height, camera.width):
        return image
    ratio_fits = height and round(width * camera.height / height) == camera.width
    if not ratio_fits or height < camera.height or width < camera.width:
        raise ContractMismatch(
            f"{width} x {height} pixels",
            f"images.{camera.name}",
            f"expected {camera.width} x {camera.height}, or larger with that aspect ratio",
        )
    return Resize(camera.height, camera.width)(image)


def _state(value: Value, embodiment: Embodiment) -> np.ndarray:
    space = embodiment.state
    if isinstance(value, dict):
        value = decode_array(value, "state")
    try:
        if not isinstance(value, np.ndarray):
            if not isinstance(value, list) or not all(type(number) in (int, float) for number in value):
                raise ContractMismatch(f"got {str(value)[:80]}")
        elif value.ndim != 1 or value.dtype.kind not in "iuf":
            raise ContractMismatch(f"got {str(value.tolist())[:80]}")
        # A copy: an array of the message is read-only.
        return space.check(np.array(value, np.float64), "state")
    except OverflowError:
        what = "a number that is too large for a float"
    except ContractMismatch as error:
        what = error.what
    units = [f"{name} ({unit})" for name, unit in zip(space.names, space.units, strict=True)]
    raise ContractMismatch(what, "state", f"send {space.size} numbers: {', '.join(units)}")
