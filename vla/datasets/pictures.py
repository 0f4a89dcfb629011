"""Pictures of a data set's records, decoded when asked for, or once for all processes of a machine."""

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


class Pictures:
    """Record -> {camera name: upright RGB, uint8 [H, W, 3]}, in the order of the cameras.

    Pictures to keep are decoded by the first process that wants them into a file beside the shards, which all map: they are in
    memory once, however many loader processes and ranks there are, and not at all where memory is short. Where the folder cannot
    be written to, each process keeps its own.

    Args:
        index: of the shards.
        cameras: each is a member `NAME.jpg` of that size.
        keep: records whose pictures are decoded now and kept, in ascending order; they are given out read-only.

    Raises:
        Unreadable: a picture is missing, damaged or of another size than its camera's.
    """

    def __init__(self, index: ShardIndex, cameras: Sequence[Camera], keep: Sequence[int] | np.ndarray = ()):
        self.index, self.cameras = index, cameras
        self._keep = np.asarray(keep, np.int64)
        ends = list(itertools.accumulate(c.height * c.width * 3 for c in cameras))
        self._size, self._parts = ends[-1], [slice(*pair) for pair in itertools.pairwise([0, *ends])]
        if len(self._keep):
            # Whether a record could be read says a byte after all pixels.
            pixels = self._size * len(self._keep)
            data = _mapped(self._path(), pixels + len(self._keep), self._decoded)
            self._rows, self._whole = data[:pixels].reshape(len(self._keep), -1), data[pixels:]

    def __call__(self, record: int) -> dict[str, np.ndarray]:
        slot = int(np.searchsorted(self._keep, record))
        if slot == len(self._keep) or self._keep[slot] != record or not self._whole[slot]:
            return self._decode(record)
        row = self._rows[slot]
        return {c.name: row[part].reshape(c.height, c.width, 3) for c, part in zip(self.cameras, self._parts, strict=True)}

    def _path(self) -> Path:
        """Named after the shards as they are, so that what is out of date can be told, and after what is kept of them."""
        shapes = [(c.name, c.height, c.width) for c in self.cameras]
        what = hashlib.sha256(repr((self.index.stamp, shapes)).encode() + self._keep.tobytes()).hexdigest()
        return self.index.folder / f"{hashlib.sha256(self.index.stamp.encode()).hexdigest()[:12]}-{what[:12]}.pixels"

    def _decoded(self) -> Iterator[bytes]:
        whole = bytearray(len(self._keep))
        for slot, record in enumerate(self._keep.tolist()):
            try:
                yield b"".join(image.tobytes() for image in self._decode(record).values())
                whole[slot] = 1
            except Unreadable:
                # Said when it is asked for.
                yield bytes(self._size)
        yield bytes(whole)

    def _decode(self, record: int) -> dict[str, np.ndarray]:
        data = self.index.read(record, tuple(f"{c.name}.jpg" for c in self.cameras))
        images = {}
        for camera, (member, content) in zip(self.cameras, data.items(), strict=True):
            image = images[camera.name] = decode_jpeg(content, self.index.where(record, member))
            if image.shape != (camera.height, camera.width, 3):
                raise Unreadable(
                    f"the picture has shape {image.shape}, camera {camera.name} of the card {camera.height} x {camera.width}",
                    self.index.where(record, member),
                )
        return images


def _mapped(path: Path, size: int, parts: Callable[[], Iterator[bytes]]) -> np.ndarray:
    """uint8 [size], read-only: a file of these parts, written if it is not there."""
    try:
        # One process writes, the others wait for it.
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
            # Of a machine that fails, no file is left that is only half there.
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
