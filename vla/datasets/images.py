"""Images of a data set's records, decoded on demand or once for all processes of a machine."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock

from vla.contract import Camera
from vla.datasets.index import ShardIndex
from vla.datasets.shards import decode_jpeg
from vla.errors import Unreadable


class ImageStore:
    """The images of a record: {camera name: upright RGB, uint8 [H, W, 3]}, in the order of the cameras.

    The first process that needs the cached records decodes them into a file beside the shards. All processes map it, so the
    images are in memory once for any number of loader processes and ranks, and the system can drop them when memory is short.
    If the folder is read-only, each process has its own copy.

    Args:
        index: index of the shards.
        cameras: the cameras; each is a member `NAME.jpg` of the camera's size.
        cached: records to decode now, in ascending order. Their images are read-only.

    Raises:
        Unreadable: an image is missing, damaged or not of its camera's size.
    """

    def __init__(self, index: ShardIndex, cameras: Sequence[Camera], cached: Sequence[int] | np.ndarray = ()):
        self.index, self.cameras = index, cameras
        self._cached = np.asarray(cached, np.int64)
        ends = list(itertools.accumulate(c.height * c.width * 3 for c in cameras))
        self._size, self._parts = ends[-1], [slice(*pair) for pair in itertools.pairwise([0, *ends])]
        if len(self._cached):
            # After all pixels, one byte per record says whether it is readable.
            pixels = self._size * len(self._cached)
            data = _mapped(self._path(), pixels + len(self._cached), self._pixels)
            self._rows, self._readable = data[:pixels].reshape(len(self._cached), -1), data[pixels:]

    def __call__(self, record: int) -> dict[str, np.ndarray]:
        slot = int(np.searchsorted(self._cached, record))
        if slot == len(self._cached) or self._cached[slot] != record or not self._readable[slot]:
            return self._decode(record)
        row = self._rows[slot]
        return {c.name: row[part].reshape(c.height, c.width, 3) for c, part in zip(self.cameras, self._parts, strict=True)}

    def _path(self) -> Path:
        """The cache file. Its name starts with the shards' stamp, which tells an outdated file, then names the contents."""
        shapes = [(c.name, c.height, c.width) for c in self.cameras]
        contents = hashlib.sha256(repr((self.index.stamp, shapes)).encode() + self._cached.tobytes()).hexdigest()
        return self.index.folder / f"{hashlib.sha256(self.index.stamp.encode()).hexdigest()[:12]}-{contents[:12]}.pixels"

    def _pixels(self) -> Iterator[bytes]:
        """The contents of the cache file."""
        readable = bytearray(len(self._cached))
        for slot, record in enumerate(self._cached.tolist()):
            try:
                yield b"".join(image.tobytes() for image in self._decode(record).values())
                readable[slot] = 1
            except Unreadable:
                # Raised again when the record is read.
                yield bytes(self._size)
        yield bytes(readable)

    def _decode(self, record: int) -> dict[str, np.ndarray]:
        data = self.index.read(record, tuple(f"{c.name}.jpg" for c in self.cameras))
        images = {}
        for camera, (member, content) in zip(self.cameras, data.items(), strict=True):
            image = images[camera.name] = decode_jpeg(content, self.index.where(record, member))
            if image.shape != (camera.height, camera.width, 3):
                raise Unreadable(
                    f"the image has shape {image.shape}, camera {camera.name} of the card {camera.height} x {camera.width}",
                    self.index.where(record, member),
                )
        return images


def _mapped(path: Path, size: int, parts: Callable[[], Iterator[bytes]]) -> np.ndarray:
    """Maps a file of these parts, uint8 [size], read-only; writes it first if it does not exist."""
    try:
        # One process writes while the others wait.
        with FileLock(path.with_name(f".{path.stem}.lock")):
            if not path.is_file() or path.stat().st_size != size:
                _write(path, parts())
        return np.asarray(np.memmap(path, np.uint8, "r"))
    except OSError:
        return np.frombuffer(b"".join(parts()), np.uint8)


def _write(path: Path, parts: Iterator[bytes]) -> None:
    for old in path.parent.glob("*.pixels"):
        if not old.name.startswith(path.name.partition("-")[0]):
            old.unlink(missing_ok=True)
    unfinished = path.with_suffix(".tmp")
    try:
        with unfinished.open("wb") as file:
            file.writelines(parts)
            file.flush()
            # A crash of the machine must not leave a partial file.
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
