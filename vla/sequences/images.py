"""The images of a sample as the model sees them, and the tokens that stand for them."""

from __future__ import annotations

import numpy as np

from vla.contract import Embodiment, PolicyContract
from vla.datasets.samples import Images
from vla.errors import UserError
from vla.models.families.base import ModelFamily
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
        self._by_count: dict[int, tuple[list[dict[Role, Sequence]], Sequence]] = {}
        self._tokens(len(contract.embodiment().cameras) * contract.history)

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
        each, together = self._tokens(len(frames))
        if not self.contract.chat and all(image is not None for image in frames):
            return [together]
        roles = [Role.ABSENT if image is None else Role.IMAGE for image in frames]
        return [image[role] for image, role in zip(each, roles, strict=True)]

    def _tokens(self, count: int) -> tuple[list[dict[Role, Sequence]], Sequence]:
        if count not in self._by_count:
            each = [{role: piece(ids, role) for role in (Role.IMAGE, Role.ABSENT)} for ids in self.family.image_ids(count)]
            self._by_count[count] = each, concat(image[Role.IMAGE] for image in each)
        return self._by_count[count]
