"""msgpack with numpy arrays in openpi's format: a map with the byte keys __ndarray__, data, dtype, shape. No pickle."""

from typing import Any, Dict

import msgpack
import numpy as np


def pack(message: Dict[str, Any]) -> bytes:
    """Packs a message. Raises ValueError for object, void and complex arrays."""
    return msgpack.packb(message, default=_pack)


def unpack(content: bytes) -> Any:
    """Unpacks a message, with arrays as writable copies. Raises ValueError if it is not a whole message."""
    try:
        return msgpack.unpackb(content, object_hook=_unpack)
    except (msgpack.UnpackException, TypeError, KeyError, RecursionError) as error:
        raise ValueError("not a message: {}".format(error)) from None


def _pack(value: object) -> Dict[bytes, Any]:
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "VOc":
        raise ValueError("cannot send dtype {}".format(value.dtype))
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError("cannot send {}".format(type(value).__name__))


def _unpack(value: Dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        dtype = np.dtype(value[b"dtype"])
        if dtype.kind not in "biuf":
            raise ValueError("dtype {} is refused".format(dtype))
        return np.frombuffer(value[b"data"], dtype).reshape(value[b"shape"]).copy()
    return value[b"data"] if b"__npgeneric__" in value else value
