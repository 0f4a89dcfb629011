"""One picture of a data set, made ready for a shard: passed on byte for byte where nothing has to change."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
from PIL import Image

from vla.datasets.formats.conventions.source_card import Orientation
from vla.datasets.shards import encode_jpeg
from vla.errors import UserError
from vla.transforms import Orient, Resize

PIXELS = 64 * 2**20
"""A picture of more is refused before it is decoded."""
_STANDALONE = {0x01, *range(0xD0, 0xD8)}


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG from its frame header; None if it is none, or is cut off (no end mark)."""
    if data[:3] != b"\xff\xd8\xff" or b"\xff\xd9" not in data[-1024:]:
        return None
    at, end = 2, len(data)
    while at + 9 <= end and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _STANDALONE:
            at += 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        if marker == 0xDA:
            return None
        at += 2 + max(int.from_bytes(data[at + 2 : at + 4], "big"), 2)
    return None


def decode(data: bytes, where: str) -> np.ndarray:
    """Any picture Pillow reads -> uint8 RGB [H, W, 3]; UserError naming `where` if it is damaged or too large."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > PIXELS:
                raise UserError(f"the picture has {image.width} x {image.height} pixels", where, f"at most {PIXELS} are read")
            return np.asarray(image.convert("RGB"))
    except UserError:
        raise
    # Pillow's readers of damaged files raise nearly anything.
    except Exception as error:
        raise UserError(f"the picture cannot be decoded: {error}", where) from error


@dataclasses.dataclass(frozen=True)
class Ready:
    """Makes a camera's pictures upright JPEGs of one size.

    Attributes:
        height, width: of the result.
        orientation: how the pictures come.
        resize: whether other sizes are scaled to it; else they are refused.
        quality: of JPEGs that have to be written anew.
    """

    height: int
    width: int
    orientation: Orientation = "upright"
    resize: bool = False
    quality: int = 95

    def __call__(self, frame: bytes | np.ndarray, where: str) -> bytes:
        """The JPEG; UserError naming `where` for a damaged picture or one of another size."""
        if not isinstance(frame, np.ndarray):
            size = jpeg_size(frame)
            if size == (self.height, self.width) and self.orientation == "upright":
                return frame
            if frame[:2] == b"\xff\xd8" and size is None:
                raise UserError("the JPEG is cut off or damaged", where)
            frame = decode(frame, where)
        pixels = rgb(frame, where)
        if pixels.shape[:2] != (self.height, self.width) and not self.resize:
            found = f"{pixels.shape[0]} x {pixels.shape[1]}"
            raise UserError(f"the picture is {found}, others {self.height} x {self.width}", where, "give a size: --size")
        return encode_jpeg(Resize(self.height, self.width)(Orient(self.orientation)(pixels)), self.quality)


def rgb(frame: np.ndarray, where: str) -> np.ndarray:
    """uint8 [H, W, 3] from [H, W, 1 or 3 or 4]; UserError for anything else."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] not in (1, 3, 4) or not frame.size:
        raise UserError(f"a picture of type {frame.dtype} and shape {frame.shape}", where, "uint8, height x width x 3")
    return np.repeat(frame, 3, 2) if frame.shape[2] == 1 else np.ascontiguousarray(frame[:, :, :3])


def picture_size(frame: bytes | np.ndarray, where: str) -> tuple[int, int]:
    """(height, width) of a picture, without decoding a JPEG."""
    if isinstance(frame, np.ndarray):
        return rgb(frame, where).shape[:2]
    return jpeg_size(frame) or decode(frame, where).shape[:2]
