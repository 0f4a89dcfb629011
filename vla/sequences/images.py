"""The images of a sample as the model sees them, and the tokens that stand for them."""

from __future__ import annotations

import numpy as np

from vla.contract import Embodiment, PolicyContract
from vla.datasets.samples import Images
from vla.errors import UserError
from vla.models.families.base import ModelFamily, Size
from vla.tokenization.sequence import Role, Sequence, concat, piece
from vla.transforms import CentreCrop

Frames = list[np.ndarray | None]
"""One image per camera and time, uint8 [H, W, 3], oldest first; None is an image that is not there."""


class ImageTokens:
    """Selects, crops and tokenizes images for one contract and one model family.

    Raises:
        UserError: the family's models cannot be trained, or take another number of images than the contract gives.
    """

    def __init__(self, contract: PolicyContract, family: ModelFamily):
        self.contract, self.family = contract, family
        self._crop = CentreCrop(contract.crop) if contract.crop < 1 else None
        self._known: dict[tuple[Size | None, ...], tuple[list[Sequence], Sequence]] = {}
        cameras = contract.embodiment().cameras
        self._tokens(tuple((camera.height, camera.width) for camera in cameras) * contract.history)

    def frames(self, history: list[Images | None], embodiment: Embodiment) -> Frames:
        """The images that the model is given, cropped.

        Args:
            history: the images of each time, oldest first; times before the first of them are not there.
        """
        missing: list[Images | None] = [None] * (self.contract.history - len(history))
        names = [camera.name for camera in embodiment.cameras]
        chosen = [images.get(name) if images else None for images in (*missing, *history) for name in names]
        return [image if image is None or not self._crop else self._crop(image) for image in chosen]

    def all_cameras(self, images: Images, embodiment: Embodiment, past: list[Images | None]) -> Frames:
        """The same for an observation, which must have an image of every camera; UserError names those that are missing."""
        missing = [camera.name for camera in embodiment.cameras if camera.name not in images]
        if missing:
            raise UserError(f"no image of camera {', '.join(missing)}; got {', '.join(images)}", "observation")
        return self.frames([*past, images], embodiment)

    def tokens(self, frames: Frames) -> list[Sequence]:
        """The images' tokens, masked where an image is not there: one sequence, or one per image where some are masked or where
        a chat template places each image by itself."""
        each, together = self._tokens(tuple(None if image is None else image.shape[:2] for image in frames))
        if not self.contract.chat and all(image is not None for image in frames):
            return [together]
        return each

    def _tokens(self, sizes: tuple[Size | None, ...]) -> tuple[list[Sequence], Sequence]:
        """The tokens of images of these sizes, each and together."""
        if sizes not in self._known:
            ids = zip(self.family.image_ids(sizes), sizes, strict=True)
            each = [piece(one, Role.ABSENT if size is None else Role.IMAGE) for one, size in ids]
            self._known[sizes] = each, concat(each)
        return self._known[sizes]
