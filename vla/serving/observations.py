"""A client's request as an Observation that fits the contract, or a refusal that says what was expected and what came."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from vla.contract import Camera, Embodiment, PolicyContract
from vla.errors import ContractMismatch, UserError
from vla.observation import Observation
from vla.protocols.wire import decode_array, decode_base64
from vla.transforms import Resize

Images = dict[str, np.ndarray]
MAX_TEXT = 2000
SMALL = 2**18
"""Numbers of a picture that is read on the event loop."""
FIELDS = ("id", "images", "state", "instruction", "embodiment")
QUESTION = ("images", "question")


def quick(request: Any) -> bool:
    """Whether its pictures are small arrays, which are read in less time than it takes to have a thread do it."""
    images = request.get("images") if isinstance(request, dict) else None
    return isinstance(images, dict) and all(isinstance(one, np.ndarray) and one.size <= SMALL for one in images.values())


def observation(request: Any, contract: PolicyContract, side: int) -> Observation:
    """Reads {"id"?, "images", "state", "instruction", "embodiment"?}; pictures and state may be arrays already (msgpack).

    Args:
        side: the longest side of a picture that is read, in pixels.

    Raises:
        UserError: a field that is missing, unknown or of the wrong type, a picture that cannot be read.
        ContractMismatch: a camera, size, dtype, state or embodiment that the contract does not have.
    """
    _known(request, FIELDS)
    name = text(request, "embodiment", "")
    body = contract.embodiment(name)
    return Observation(
        id=text(request, "id", "default"),
        images=_images(request.get("images"), body, side),
        state=_state(request.get("state"), body),
        instruction=text(request, "instruction"),
        embodiment=name,
    )


def question(request: Any, contract: PolicyContract, side: int) -> tuple[Images, str]:
    """Reads {"images", "question"}: pictures of the first embodiment, and what is asked about them."""
    _known(request, QUESTION)
    return _images(request.get("images"), contract.embodiment(), side), text(request, "question")


def _known(request: Any, fields: tuple[str, ...]) -> None:
    if not isinstance(request, dict):
        raise UserError(f"expected an object, got {type(request).__name__}", "request", f"send {', '.join(fields)}")
    for key in request:
        if key not in fields:
            raise UserError(f"unknown field {str(key)[:60]!r}", "request", f"known are {', '.join(fields)}")


def text(request: dict[Any, Any], field: str, default: str | None = None) -> str:
    """A text field of the request, `default` where it is left out (None: it must be there)."""
    value = request.get(field, default)
    if value is None:
        raise UserError("missing", field, f"send {field} as text")
    if not isinstance(value, str):
        raise UserError(f"expected text, got {type(value).__name__}", field)
    if len(value) > MAX_TEXT:
        raise UserError(f"{len(value)} characters, at most {MAX_TEXT} are read", field)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError("half a character (a lone surrogate)", field, "send whole Unicode text") from None
    return value


def _images(images: Any, body: Embodiment, side: int) -> Images:
    names = [camera.name for camera in body.cameras]
    expected = f"send images from {', '.join(names)}"
    if not isinstance(images, dict):
        raise UserError(f"expected camera name -> picture, got {type(images).__name__}", "images", expected)
    for name in images:
        if name not in names:
            raise ContractMismatch(f"unknown camera {str(name)[:60]!r}", "images", expected)
    for name in names:
        if name not in images:
            came = ", ".join(map(str, images))[:200] or "none"
            raise ContractMismatch(f"camera {name!r} is missing, got {came}", "images", expected)
    return {camera.name: fit(_picture(images[camera.name], f"images.{camera.name}", side), camera) for camera in body.cameras}


def _picture(value: Any, where: str, side: int) -> np.ndarray:
    if isinstance(value, str):
        return _compressed(decode_base64(value, where), where, side)
    if isinstance(value, bytes):
        return _compressed(value, where, side)
    if isinstance(value, dict):
        value = decode_array(value, where)
    if not isinstance(value, np.ndarray):
        raise UserError(f"expected a picture, got {type(value).__name__}", where, "base64 of a JPEG or PNG file, or an array")
    if value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != 3:
        raise ContractMismatch(f"got {value.dtype} {list(value.shape)}", where, "expected uint8 [height, width, 3], upright RGB")
    if max(value.shape) > side:
        raise UserError(f"{value.shape[1]} x {value.shape[0]} pixels, at most {side} a side", where)
    return value


def _compressed(content: bytes, where: str, side: int) -> np.ndarray:
    """A JPEG or PNG file as uint8 [H, W, 3], turned upright by its EXIF note. The size is checked before pixels are decoded."""
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as picture:
            if max(picture.size) > side:
                raise UserError(f"{picture.width} x {picture.height} pixels, at most {side} a side", where)
            if picture.mode not in ("RGB", "RGBA", "P"):
                raise ContractMismatch(f"a picture of mode {picture.mode}", where, "expected 8-bit RGB")
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001
        # A file that is broken somewhere gets any error out of its decoder: struct's, a KeyError …
        raise UserError(
            f"a picture that cannot be read: {str(error)[:120]}", where, "base64 of a whole JPEG or PNG file"
        ) from None


def fit(picture: np.ndarray, camera: Camera) -> np.ndarray:
    """The picture in the camera's size: scaled down, as for training, where the aspect ratio is the camera's, else refused.

    The ratio fits if scaling to the camera's height gives its width to the nearest pixel.
    """
    height, width = picture.shape[:2]
    if (height, width) == (camera.height, camera.width):
        return picture
    fits = height and round(width * camera.height / height) == camera.width
    if not fits or height < camera.height or width < camera.width:
        raise ContractMismatch(
            f"{width} x {height} pixels",
            f"images.{camera.name}",
            f"expected {camera.width} x {camera.height}, or larger with that aspect ratio",
        )
    return Resize(camera.height, camera.width)(picture)


def _state(value: Any, body: Embodiment) -> np.ndarray:
    expected = f"send {body.state.size} numbers: " + ", ".join(
        f"{name} ({unit})" for name, unit in zip(body.state.names, body.state.units, strict=True)
    )
    if isinstance(value, dict):
        value = decode_array(value, "state")
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list) or not all(type(number) in (int, float) for number in value):
        raise ContractMismatch(f"got {str(value)[:80]}", "state", expected)
    try:
        return body.state.check(np.array(value, np.float64), "state")
    except OverflowError:
        raise ContractMismatch("a number that no float holds", "state", expected) from None
    except ContractMismatch as error:
        raise ContractMismatch(error.what, "state", expected) from None
