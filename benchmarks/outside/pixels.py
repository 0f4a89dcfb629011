"""Images whose brightness tells which one they are, in the encodings of other people's data."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

SIZE = (32, 48)
"""Height and width of images."""


def plain(level: float, size: tuple[int, int] = SIZE) -> np.ndarray:
    """An image of one brightness whose left quarter is dark, uint8 [H, W, 3]."""
    pixels = np.full((*size, 3), round(level), np.uint8)
    pixels[:, : size[1] // 4] = 10
    return pixels


def level(episode: int, step: int) -> int:
    """The brightness of a step's image, another for each of eight consecutive ones."""
    return 40 + 60 * (episode % 3) + 8 * (step % 8)


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """An image as a file."""
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, kind, **({"quality": 95} if kind == "JPEG" else {}), **options)
    return file.getvalue()


def deep(value: int = 3000, size: tuple[int, int] = SIZE) -> bytes:
    """A PNG of 16 bits, as depth cameras write it: a ramp up to a value."""
    ramp = np.linspace(0, value, size[0] * size[1]).reshape(size).astype(np.uint16)
    return encoded(Image.fromarray(ramp))


def brightness(data: bytes) -> float:
    """The mean of an encoded image without its dark quarter."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float)
    return float(pixels[:, pixels.shape[1] // 3 :].mean())


def film(
    path: Path,
    frames: Iterable[np.ndarray],
    fps: float | Fraction,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    **options: str,
) -> None:
    """Writes a video; options are the encoder's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("SVT_LOG", "0")
    av.logging.set_level(av.logging.ERROR)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(100_000), options={"crf": "10", **options})
        for number, pixels in enumerate(frames):
            if not number:
                stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], pix_fmt
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24" if pixels.ndim == 3 else "gray16le")))
        container.mux(stream.encode(None))
