"""The encoding of messages between policy servers and clients: arrays in JSON and msgpack, never pickle.

Arrays in JSON have the form of json_numpy, which OpenVLA's clients use: {"__numpy__": base64, "dtype", "shape"}. Arrays in
msgpack have openpi's form: a map with the byte keys __ndarray__, data, dtype, shape.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from vla.errors import UserError

Value = str | bytes | int | float | bool | None | np.ndarray | list["Value"] | dict[Any, Any]
"""A decoded message, or a part of it: what JSON and msgpack hold, and arrays."""

PLAIN = (str, int, bool, type(None))
PARTS = 1000
"""Limit of the lists and maps in a message, and of the entries of each. An entry of one byte takes about 100 in memory."""
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Message = None | bool | int | float | str | bytes | np.ndarray | np.generic | Sequence["Message"] | Mapping[str, "Message"]
"""A message that msgpack carries."""
T = TypeVar("T")


def encode_array(array: np.ndarray) -> dict[str, Json]:
    """The array as a JSON object."""
    return {"__numpy__": base64.b64encode(array.tobytes()).decode(), "dtype": array.dtype.str, "shape": list(array.shape)}


def decode_array(data: dict[str, Json], where: str) -> np.ndarray:
    """Decodes an object of `encode_array` to a writable array.

    Raises:
        UserError: a field is missing, the dtype is not numeric, or the bytes do not fill the shape.
    """
    try:
        content, dtype, shape = data["__numpy__"], data["dtype"], data["shape"]
    except KeyError as error:
        raise UserError(
            f"array without {error}", where, 'send {"__numpy__": base64, "dtype": "|u1", "shape": [64, 64, 3]}'
        ) from None
    return _array(decode_base64(content, where), dtype, shape, where).copy()


def decode_base64(text: Json, where: str) -> bytes:
    """Decodes standard base64; UserError for anything else."""
    if not isinstance(text, str):
        raise UserError(f"expected base64 text, got {type(text).__name__}", where)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"not base64: {error}", where, "send standard base64 without a data: prefix or line breaks") from None


def _array(content: bytes, dtype: Json, shape: Json, where: str) -> np.ndarray:
    """The array, a view of the bytes. A huge shape with little data is refused before anything is allocated."""
    try:
        kind = np.dtype(dtype)  # type: ignore[call-overload]
    except (TypeError, ValueError, SyntaxError):
        raise UserError(f"unknown dtype {str(dtype)[:40]!r}", where, "use uint8 for images, float32 for states") from None
    if kind.kind not in "biuf" or kind.shape:
        raise UserError(f"dtype {str(dtype)[:40]!r} is refused", where, "send plain numbers or booleans")
    if not isinstance(shape, list | tuple) or len(shape) > 8 or not all(type(n) is int and n >= 0 for n in shape):
        raise UserError(f"not a shape: {str(shape)[:60]}", where, "send a list of at most eight whole numbers")
    sizes = cast(list[int], shape)
    if math.prod(sizes) * kind.itemsize != len(content):
        raise UserError(f"{len(content)} bytes do not fill shape {list(sizes)} of {kind.name}", where)
    return np.frombuffer(content, kind).reshape(sizes)


def plain(value: Any) -> Any:
    """The value in strict JSON types: arrays and numpy scalars become lists and numbers, NaN and infinity become None."""
    # By exact type first: most values are such numbers.
    kind = type(value)
    if kind is float:
        return value if math.isfinite(value) else None
    if kind in PLAIN:
        return value
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (*PLAIN, float)) else str(value)


def read_json(content: bytes | str, where: str) -> Any:
    """Parses JSON; UserError if it is invalid, or has so many values that parsing would fill the memory."""
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        # The limit is above PARTS because characters within strings are counted too.
        if sum(map(text.count, "[{,")) > 10 * PARTS:
            raise UserError(f"more than {10 * PARTS} values", where, "send images as files or arrays, in base64")
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {str(error)[:200]}", where, "send one JSON object, UTF-8") from None


def pack(message: Message) -> bytes:
    """Encodes a message in msgpack, with arrays in openpi's form.

    Raises:
        ValueError: an array holds objects, void or complex numbers.
    """
    return packer()(message)


def packer() -> Callable[[Message], bytes]:
    """Returns a `pack` that keeps its buffer, for one thread that sends many messages."""
    import msgpack

    return msgpack.Packer(default=_pack_numpy).pack  # pyright: ignore[reportReturnType]


def unpack(content: bytes) -> Any:
    """Decodes a message of `pack` or of openpi's client. Its arrays are read-only views of the message, as openpi's are.

    Raises:
        UserError: the bytes are not msgpack, or an array is incomplete.
    """
    import msgpack

    numbers = itertools.count(1)

    def counted(value: T) -> T:
        if next(numbers) > PARTS:
            raise ValueError(f"more than {PARTS} lists and maps")
        return value

    def read(value: dict[Any, Any]) -> Any:
        return _unpack_numpy(counted(value))

    try:
        return msgpack.unpackb(content, object_hook=read, list_hook=counted, max_array_len=PARTS, max_map_len=PARTS)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise UserError(f"not msgpack: {str(error)[:200]}", "message", "send one msgpack map per message") from None


def _pack_numpy(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "VOc":
        raise ValueError(f"dtype {value.dtype} is not sent")
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"{type(value).__name__} is not sent")


def _unpack_numpy(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        content = value.get(b"data")
        if not isinstance(content, bytes):
            raise UserError("array without bytes in data", "message")
        return _array(content, value.get(b"dtype"), value.get(b"shape"), "message")
    if b"__npgeneric__" in value:
        return value.get(b"data")
    return value
