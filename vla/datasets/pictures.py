"""Pictures of a data set's records, decoded when asked for or kept decoded in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from vla.contract import Camera
from vla.datasets.index import ShardIndex
from vla.datasets.shards import decode_jpeg
from vla.errors import UserError


class Pictures:
    """Record -> {camera name: upright RGB, uint8 [H, W, 3]}, in the order of the cameras.

    Args:
        index: of the shards.
        cameras: each is a member `NAME.jpg` of that size.
        keep: records whose pictures are decoded now and kept; they are given out read-only.

    Raises:
        UserError: a picture is missing, damaged or of another size than its camera's.
    """

    def __init__(self, index: ShardIndex, cameras: Sequence[Camera], keep: Iterable[int] = ()):
        self.index, self.cameras = index, cameras
        self._slots = {record: slot for slot, record in enumerate(keep)}
        self._kept = {c.name: np.empty((len(self._slots), c.height, c.width, 3), np.uint8) for c in cameras}
        for record, slot in self._slots.items():
            for name, image in self._decode(record).items():
                self._kept[name][slot] = image
        for frames in self._kept.values():
            frames.flags.writeable = False

    def __call__(self, record: int) -> dict[str, np.ndarray]:
        slot = self._slots.get(record)
        return self._decode(record) if slot is None else {name: frames[slot] for name, frames in self._kept.items()}

    def _decode(self, record: int) -> dict[str, np.ndarray]:
        data = self.index.read(record, tuple(f"{c.name}.jpg" for c in self.cameras))
        images = {}
        for camera, (member, content) in zip(self.cameras, data.items(), strict=True):
            image = images[camera.name] = decode_jpeg(content, self.index.where(record, member))
            if image.shape != (camera.height, camera.width, 3):
                raise UserError(
                    f"the picture has shape {image.shape}, camera {camera.name} of the card {camera.height} x {camera.width}",
                    self.index.where(record, member),
                )
        return images
