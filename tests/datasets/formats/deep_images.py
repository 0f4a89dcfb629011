"""Images of many modes, from Pillow or byte by byte: those that Pillow would clip to 8 bits, and those that it reads right."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

SIZE = 16
GREY = np.arange(SIZE * SIZE, dtype=np.uint16).reshape(SIZE, SIZE) * 257
"""All levels of 16 bits whose bytes are equal: 0 to 65535."""
LEVELS = (GREY >> 8).astype(np.uint8)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png16(pixels):
    """A PNG of 16 bits (W3C PNG, 11.2): uint16 [H, W], or [H, W, 2, 3 or 4]."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


DEPTH = png16(GREY)
CLIPPED = {
    "PNG of 16 bits": DEPTH,
    "TIFF of 16 bits": saved(Image.fromarray(GREY), "TIFF"),
    "big-endian TIFF of 16 bits": saved(Image.fromarray(GREY.astype(">u2")), "TIFF"),
    "TIFF of 32 bits": saved(Image.fromarray(GREY.astype(np.int32)), "TIFF"),
    "TIFF of floats": saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
    "TIFF of floats from 0 to 1": saved(Image.fromarray(GREY.astype(np.float32) / 65535), "TIFF"),
    "JPEG 2000 of 16 bits": saved(Image.fromarray(GREY), "JPEG2000"),
    "PGM of 16 bits": b"P5 16 16 65535\n" + GREY.astype(">u2").tobytes(),
}
_RGB = np.stack([LEVELS, LEVELS[::-1], LEVELS.T], 2)
_RGB16 = np.stack([GREY, GREY[::-1], GREY.T], 2)
_FADING = np.dstack([_RGB, LEVELS])
READ = {
    "grey": (saved(Image.fromarray(LEVELS), "PNG"), np.dstack([LEVELS] * 3)),
    "black and white": (saved(Image.fromarray(LEVELS > 99), "PNG"), np.dstack([np.where(LEVELS > 99, 255, 0)] * 3)),
    "grey with alpha": (saved(Image.fromarray(np.dstack([LEVELS, LEVELS]), "LA"), "PNG"), np.dstack([LEVELS] * 3)),
    "colours with alpha": (saved(Image.fromarray(_FADING), "PNG"), _RGB),
    "palette": (saved(Image.fromarray(LEVELS).convert("P"), "PNG"), np.dstack([LEVELS] * 3)),
    "palette with a transparent colour": (
        saved(Image.fromarray(LEVELS).convert("P"), "PNG", transparency=3),
        np.dstack([LEVELS] * 3),
    ),
    "GIF": (saved(Image.fromarray(LEVELS), "GIF"), np.dstack([LEVELS] * 3)),
    "CMYK": (saved(Image.fromarray(np.dstack([255 - _RGB, np.zeros_like(LEVELS)]), "CMYK"), "TIFF"), _RGB),
    "lossless WebP": (saved(Image.fromarray(_RGB), "WEBP", lossless=True), _RGB),
    "colours of 16 bits": (png16(_RGB16), _RGB),
    "colours of 16 bits with alpha": (png16(np.dstack([_RGB16, GREY])), _RGB),
    "grey of 16 bits with alpha": (png16(np.dstack([GREY, GREY])), np.dstack([LEVELS] * 3)),
    "PPM of 16 bits": (b"P6 16 16 65535\n" + _RGB16.astype(">u2").tobytes(), _RGB),
}
