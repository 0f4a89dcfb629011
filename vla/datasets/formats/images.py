"""Converts the images of a data set to JPEGs for shards; a JPEG that needs no change is passed on byte for byte."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
from PIL import Image

from vla.datasets.formats.conventions.source_card import Orientation
from vla.datasets.shards import check_bits, encode_jpeg, is_turned, undecodable, upright
from vla.errors import UserError
from vla.transforms import Orient, Resize

PIXELS = 64 * 2**20
"""Largest image, in pixels, that is decoded."""
_STANDALONE = {0x01, *range(0xD0, 0xD8)}
"""JPEG markers without a length field."""


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Reads (height, width) from a JPEG's frame header; None if it is not a JPEG of 8 bits or is cut off (no end marker)."""
    header = _jpeg_header(data)
    return header[:2] if header else None


def plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """The same of a JPEG that may be passed on as it is; None also for CMYK, and for one that its EXIF tag turns."""
    header = _jpeg_header(data)
    if header is None or header[2] not in (1, 3):
        return None
    if header[3]:
        try:
            with Image.open(io.BytesIO(data)) as image:
                if is_turned(image):
                    return None
        # It is decoded then, which says what is wrong.
        except Exception:  # noqa: BLE001
            return None
    return header[:2]


def _jpeg_header(data: bytes) -> tuple[int, int, int, bool] | None:
    """Height, width and number of channels of a JPEG of 8 bits, and whether it has EXIF tags; None as for `jpeg_size`."""
    has_exif = False
    if data[:3] != b"\xff\xd8\xff" or b"\xff\xd9" not in data[-1024:]:
        return None
    offset, end = 2, len(data)
    while offset + 10 <= end and data[offset] == 0xFF:
        marker = data[offset + 1]
        if marker == 0xFF:
            offset += 1
            continue
        if marker in _STANDALONE:
            offset += 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = (int.from_bytes(data[k : k + 2], "big") for k in (offset + 5, offset + 7))
            return (height, width, data[offset + 9], has_exif) if data[offset + 4] == 8 else None
        has_exif |= data[offset + 4 : offset + 10] == b"Exif\0\0"
        if marker == 0xDA:
            return None
        offset += 2 + max(int.from_bytes(data[offset + 2 : offset + 4], "big"), 2)
    return None


def decode(data: bytes, where: str) -> np.ndarray:
    """Decodes any image that Pillow reads to uint8 RGB [H, W, 3].

    Raises:
        UserError: it is damaged or too large, or `check_bits` fails; names `where`.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > PIXELS:
                raise UserError(f"the image has {image.width} x {image.height} pixels", where, f"at most {PIXELS} are read")
            check_bits(image, where)
            return np.asarray(upright(image).convert("RGB"))
    except UserError:
        raise
    # Pillow raises nearly any exception for a damaged file.
    except Exception as error:
        raise UserError(undecodable(data, error), where) from error


@dataclasses.dataclass(frozen=True)
class Ready:
    """Converts a camera's images to upright JPEGs of one size.

    Its repr is part of a conversion's digest.

    Attributes:
        height, width: size of the result.
        orientation: orientation of the data set's images; those that are mirrored stay so.
        resize: whether images of another size are scaled; otherwise they are an error.
        quality: JPEG quality of images that must be encoded again.
    """

    height: int
    width: int
    orientation: Orientation = "upright"
    resize: bool = False
    quality: int = 95

    def __call__(self, frame: bytes | np.ndarray, where: str) -> bytes:
        """Returns the JPEG; UserError at `where` if the image is damaged or has another size."""
        if not isinstance(frame, np.ndarray):
            if plain_jpeg_size(frame) == (self.height, self.width) and self.orientation in ("upright", "mirrored"):
                return frame
            if frame[:2] == b"\xff\xd8" and jpeg_size(frame) is None:
                raise UserError("the JPEG is cut off or damaged, or not of 8 bits", where)
            frame = decode(frame, where)
        pixels = rgb(frame, where)
        if pixels.shape[:2] != (self.height, self.width) and not self.resize:
            size = f"{pixels.shape[0]} x {pixels.shape[1]}"
            raise UserError(f"the image is {size}, others {self.height} x {self.width}", where, "give a size: --size")
        return encode_jpeg(Resize(self.height, self.width)(Orient(self.orientation)(pixels)), self.quality)


def rgb(frame: np.ndarray, where: str) -> np.ndarray:
    """Converts uint8 [H, W, 1, 3 or 4] to [H, W, 3]; UserError at `where` for anything else."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] not in (1, 3, 4) or not frame.size:
        raise UserError(f"the image has type {frame.dtype} and shape {frame.shape}", where, "uint8 [height, width, 3] is needed")
    return np.repeat(frame, 3, 2) if frame.shape[2] == 1 else np.ascontiguousarray(frame[:, :, :3])


def image_size(frame: bytes | np.ndarray, where: str) -> tuple[int, int]:
    """Returns an image's (height, width), without decoding it if it is a JPEG."""
    if isinstance(frame, np.ndarray):
        return rgb(frame, where).shape[:2]
    return plain_jpeg_size(frame) or decode(frame, where).shape[:2]
