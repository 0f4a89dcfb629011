"""Writes shards: webdataset tar files whose bytes depend only on the samples.

Torch is imported (by webdataset) when a writer opens its first file, since simulation workers use only the encoders.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import os
import sys
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from vla.errors import Unreadable, UserError
from vla.files import why_not_data

PATTERN = "shard-*.tar"
Member = bytes | np.ndarray | dict


def encode_jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    """uint8 RGB [H, W, 3] -> JPEG without chroma subsampling: in 64-pixel images, colour distinguishes the objects."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def decode_jpeg(data: bytes, where: str) -> np.ndarray:
    """JPEG (or any format Pillow reads) -> uint8 RGB [H, W, 3]; Unreadable naming `where` if it is damaged or `check_bits` fails.

    If torchvision is already loaded, its decoder is used: it gives the same pixels in two thirds of the time.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            check_bits(image, where)
            if image.mode != "RGB" or is_turned(image):
                return np.asarray(upright(image).convert("RGB"))
            torchvision = sys.modules.get("torchvision.io")
            if image.format == "JPEG" and torchvision is not None:
                # Pillow decodes the rest, or says what is wrong.
                with contextlib.suppress(RuntimeError, AttributeError):
                    torch = sys.modules["torch"]
                    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
                    return torchvision.decode_jpeg(encoded).permute(1, 2, 0).numpy()
            # `convert` would copy an RGB image.
            return np.asarray(image)
    except Unreadable:
        raise
    # Pillow raises nearly any exception for a damaged file.
    except Exception as error:
        raise Unreadable(undecodable(data, error), where, "write the shard again") from error


def check_bits(image: Image.Image, where: str) -> None:
    """Raises Unreadable for grey levels of 16 or 32 bits and for floats, e.g. depth: Pillow clips them to 255, often all of them.

    Colours of 16 bits are fine: Pillow keeps their upper 8.
    """
    if image.mode.partition(";")[0] in ("I", "F"):
        raise Unreadable(
            f"the image has levels of more than 8 bits (mode {image.mode} of Pillow)",
            where,
            "leave depth images out with a card, and save others with 8 bits",
        )


def undecodable(data: bytes, error: Exception) -> str:
    """Says why an image cannot be decoded. Pillow's own message for an unknown format names an object in memory."""
    unknown = (why_not_data(data) or "it is damaged or of an unknown format") if data else "it is empty"
    return f"the image cannot be decoded: {unknown if isinstance(error, UnidentifiedImageError) else error}"


def is_turned(image: Image.Image) -> bool:
    """Whether an image's EXIF tag says that its rows are not those that a person sees, as in photos of a phone."""
    if "exif" not in image.info:
        return False
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    except Exception:  # noqa: BLE001 (what a damaged tag says does not matter; Pillow may raise anything for it)
        return False


def upright(image: Image.Image) -> Image.Image:
    """The image as a person sees it; the server reads images in the same way."""
    return ImageOps.exif_transpose(image) if is_turned(image) else image


def decode_array(data: bytes, where: str) -> np.ndarray:
    """NumPy's .npy format -> array, never unpickling; Unreadable naming `where` if it is damaged."""
    try:
        # Format 1.0 is that of arrays of plain types; bytes 8 and 9 are the header's length. A header may claim any shape, so
        # the array is a view of the data and nothing is allocated for the claim.
        if data[:8] != b"\x93NUMPY\x01\x00":
            raise ValueError("not NumPy's format 1.0")
        start = 10 + int.from_bytes(data[8:10], "little")
        dtype, shape, order = _array_header(data[:start])
        return np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape, order=order).copy()
    except (ValueError, OSError, EOFError, SyntaxError, OverflowError, TypeError, tokenize.TokenError) as error:
        raise Unreadable(f"not an array: {error}", where, "write the shard again") from error


@functools.lru_cache(256)
def _array_header(header: bytes) -> tuple[np.dtype, tuple[int, ...], Literal["C", "F"]]:
    """dtype, shape and order of a header. Cached: all arrays of a shape have the same header, and numpy is slow to parse it."""
    file = io.BytesIO(header)
    np.lib.format.read_magic(file)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return dtype, shape, "F" if fortran else "C"


def decode_json(data: bytes, where: str) -> dict[str, Any]:
    """JSON object -> dict; Unreadable naming `where` if it is damaged."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"not JSON: {error}", where, "write the shard again") from error
    if not isinstance(value, dict):
        raise Unreadable("not a JSON object", where, "write the shard again")
    return value


def encode_member(name: str, value: Member) -> bytes:
    """A member's bytes: images (`.jpg`) as JPEG, other arrays as .npy, dicts as JSON with sorted keys, bytes unchanged."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    if name.endswith("jpg"):
        return encode_jpeg(value)
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(value), allow_pickle=False)
    return buffer.getvalue()


def check_empty(folder: str | Path, overwrite: bool) -> None:
    """Raises UserError if the folder has shards that are not to be overwritten."""
    old = len(list(Path(folder).glob(PATTERN)))
    if old and not overwrite:
        raise UserError(f"the folder already holds {old} shards", str(folder), "choose another one or overwrite it")


class ShardWriter:
    """Writes samples to `shard-000000.tar`, `shard-000001.tar` … in a folder; a context manager.

    A shard has a temporary name until it is complete. If the block ends with an error, the unfinished shard is removed. Time,
    user and group are fixed, so equal samples in equal order give equal bytes.

    Args:
        folder: created if it does not exist.
        per_shard: samples per file; 0: `cut` ends a file.
        overwrite: whether existing shards and their caches are removed first.
        keep: shards of the folder that stay, with their numbers of samples; what is written follows them.

    Raises:
        UserError: the folder has shards, and neither `overwrite` nor `keep` is given.
    """

    def __init__(self, folder: str | Path, per_shard: int = 2000, overwrite: bool = False, keep: Mapping[str, int] | None = None):
        self.folder, self.per_shard, self.overwrite = Path(folder), per_shard, overwrite
        self.shards: dict[str, int] = dict(keep or {})
        self.count = sum(self.shards.values())
        self._keys: set[str] = set()
        self._file = self._tar = None

    def __enter__(self) -> ShardWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        check_empty(self.folder, self.overwrite or bool(self.shards))
        for path in [
            *(path for path in self.folder.glob(PATTERN) if path.name not in self.shards),
            *self.folder.glob("shard-*.idx"),
            *self.folder.glob("shard-*.tmp"),
            *self.folder.glob("*.columns"),
            *self.folder.glob("*.pixels"),
        ]:
            path.unlink()
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self.cut()
        elif self._file is not None and self._tar is not None:
            self._tar.close()
            self._file.close()
            self._path.with_suffix(".tmp").unlink()
            self._file = self._tar = None

    @property
    def _path(self) -> Path:
        return self.folder / f"shard-{len(self.shards):06d}.tar"

    def write(self, key: str, members: dict[str, Member]) -> None:
        """Appends one sample; `members` maps an extension ("front.jpg", "json") to a value that `encode_member` takes.

        Raises:
            UserError: the key was used before, or it has a character that separates extensions or folders.
        """
        if not key or "." in key or "/" in key or key.startswith("_") or key in self._keys:
            raise UserError(f"the key {key!r} is empty, used twice, or has '.', '/' or a leading '_'", str(self.folder))
        data = {name: encode_member(name, value) for name, value in members.items()}
        if self._file is None:
            from webdataset.writer import TarWriter

            self._file = self._path.with_suffix(".tmp").open("wb")
            self._tar = TarWriter(self._file, user="vla", group="vla", encoder=False, mtime=0)
        assert self._tar is not None
        self._tar.write({"__key__": key, **data})
        self._keys.add(key)
        self.count += 1
        if self.per_shard and self.count % self.per_shard == 0:
            self.cut()

    def cut(self) -> None:
        """Completes the present file, if there is one; the next sample begins another."""
        if self._file is None or self._tar is None:
            return
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        path = self._path
        os.replace(path.with_suffix(".tmp"), path)
        self.shards[path.name] = self.count - sum(self.shards.values())
        self._file = self._tar = None
