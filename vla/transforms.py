"""Image transforms: orient, crop, resize, normalise, augment. Those that move pixels transform points too.

Images are uint8 [H, W, 3] RGB. Points are (u to the right, v down), each 0 to 1 over the image.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from vla.errors import UserError

Point = tuple[float, float]
OPENVLA_AREA = 0.9
"""The share of an image's area that OpenVLA keeps in evaluations of models that were trained with random crops."""
LEVELS = np.arange(256) - 127.5
"""The 256 levels of a pixel, relative to middle grey."""


@dataclasses.dataclass(frozen=True)
class Orient:
    """Turns an image upright.

    Attributes:
        source: orientation of the input: "upright"; "raw_opengl", rows from bottom to top, as in robosuite; "rot180", rotated by
            180 degrees; "mirrored", upright with left and right exchanged, which stays so (`[::-1, ::-1]` of a raw OpenGL image,
            as in OpenVLA's and openpi's LIBERO data).
    """

    source: Literal["upright", "raw_opengl", "rot180", "mirrored"] = "upright"

    def __post_init__(self):
        if self.source not in ("upright", "raw_opengl", "rot180", "mirrored"):
            raise UserError(f"unknown orientation {self.source!r}", "transform", "use upright, raw_opengl, rot180 or mirrored")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        flips = {"upright": image, "mirrored": image, "raw_opengl": image[::-1], "rot180": image[::-1, ::-1]}
        return np.ascontiguousarray(flips[self.source])

    def inverse(self, image: np.ndarray) -> np.ndarray:
        return self(image)

    def point(self, point: Point) -> Point:
        u, v = point
        return {"raw_opengl": (u, 1 - v), "rot180": (1 - u, 1 - v)}.get(self.source, (u, v))


@dataclasses.dataclass(frozen=True)
class CentreCrop:
    """Crops to the centre of the image, `factor` of each side, rounded to whole pixels; points are not rounded."""

    factor: float = 1.0

    def __post_init__(self):
        if not 0 < self.factor <= 1:
            raise UserError(f"crop factor {self.factor}", "transform", "give more than 0 and at most 1")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        height, width = (max(round(side * self.factor), 1) for side in image.shape[:2])
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        return image[top : top + height, left : left + width]

    def point(self, point: Point) -> Point:
        return (point[0] - 0.5) / self.factor + 0.5, (point[1] - 0.5) / self.factor + 0.5


@dataclasses.dataclass(frozen=True)
class Resize:
    """Resizes to height x width pixels, bilinear with antialiasing. An image of that size is returned unchanged. Points stay.

    Uses PyTorch, which is four times faster than Pillow and differs from it by at most two levels.
    """

    height: int
    width: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        if image.shape[:2] == (self.height, self.width):
            return image
        import torch  # here, since simulation workers orient and normalise images without it

        pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).movedim(-1, 0)[None]
        size = (self.height, self.width)
        resized = torch.nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True)
        return np.ascontiguousarray(resized[0].movedim(0, -1).numpy())

    def point(self, point: Point) -> Point:
        return point


def scaled(image: np.ndarray) -> np.ndarray:
    """Scales uint8 levels to float32 in [-1, 1]; shape and memory layout stay."""
    levels = image.astype(np.float32)
    levels /= np.float32(127.5)
    levels -= np.float32(1)
    return levels


class Normalise:
    """uint8 [..., H, W, 3] -> float32 [..., 3, H, W] from -1 to 1, and exactly back."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        if image.dtype != np.uint8 or image.shape[-1] != 3:
            raise UserError(f"an image of type {image.dtype} and shape {image.shape}", "transform", "give uint8 [H, W, 3]")
        return scaled(np.ascontiguousarray(np.moveaxis(image, -1, -3)))

    def inverse(self, pixels: np.ndarray) -> np.ndarray:
        return np.moveaxis(np.rint((np.clip(pixels, -1, 1) + 1) * 127.5), -3, -1).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random shifts of named cameras, and random brightness and contrast of all cameras, for training.

    Attributes:
        shift: camera name -> maximum shift in pixels along either axis; the edge of the image is repeated in the gap.
        brightness: maximum change of brightness, as a share of the full range.
        contrast: maximum change of the contrast around middle grey; the factor is within this distance of 1.
    """

    shift: dict[str, int] = dataclasses.field(default_factory=dict)
    brightness: float = 0.0
    contrast: float = 0.0

    def check(self) -> None:
        """Raises UserError if a number is below 0."""
        # Not when it is made: the configuration's parser would then try another class and report what that lacks.
        if min(self.brightness, self.contrast, *self.shift.values()) < 0:
            raise UserError(f"{self}", "augmentation", "give no number below 0")

    def __call__(
        self, images: dict[str, np.ndarray], points: list[Point], rng: np.random.Generator
    ) -> tuple[dict[str, np.ndarray], list[Point]]:
        """Changed copies of the images, and the points, which move with the first camera's image (clipped to 0..1)."""
        unknown = self.shift.keys() - images.keys()
        if unknown:
            raise UserError(f"unknown cameras {sorted(unknown)}", "augmentation", f"the data has {', '.join(images)}")
        first = next(iter(images))
        changed = {}
        for name, image in images.items():
            limit = self.shift.get(name, 0)
            if limit:
                dx, dy = rng.integers(-limit, limit + 1, 2)
                height, width = image.shape[:2]
                rows, columns = np.arange(height) - dy, np.arange(width) - dx
                image = image[np.clip(rows, 0, height - 1)][:, np.clip(columns, 0, width - 1)]
                if name == first and points:
                    moved = np.clip(np.array(points) + (dx / width, dy / height), 0.0, 1.0)
                    points = [(float(u), float(v)) for u, v in moved]
            changed[name] = self._relit(image, rng)
        return changed, points

    def _relit(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if not (self.brightness or self.contrast):
            return image
        factor, offset = 1 + rng.uniform(-self.contrast, self.contrast), 255 * rng.uniform(-self.brightness, self.brightness)
        # A table of the 256 levels is several times faster than arithmetic on the image.
        table = np.clip(LEVELS * factor + (127.5 + offset), 0, 255).astype(np.uint8)
        return np.take(table, image)


@dataclasses.dataclass(frozen=True)
class Appearance:
    """Random changes of what things look like, for training: colours, texture and light. Points stay where they are.

    Colours change alike in all images, as if paints and lights were others; texture and light are each camera's own. Where names
    of colours matter, keep `hue` small: 0.04 leaves every colour of the tabletop its name.

    Attributes:
        hue: maximum turn of the hues in either direction, as a share of the circle.
        channels: maximum change of red, green and blue, each by its own factor, which is within this distance of 1.
        texture: maximum amplitude of smooth noise in patches of random size, as a share of the full range.
        gradient: maximum change of brightness at the edges by a light from a random side; the factor is within this of 1.
    """

    hue: float = 0.0
    channels: float = 0.0
    texture: float = 0.0
    gradient: float = 0.0

    def check(self) -> None:
        """Raises UserError if a number is below 0, `hue` above 0.5, or another above 1."""
        shares = dataclasses.astuple(self)
        if min(shares) < 0 or max(shares) > 1 or self.hue > 0.5:
            raise UserError(f"{self}", "augmentation", "give numbers from 0 to 1, and a hue of at most 0.5")

    def __call__(
        self, images: dict[str, np.ndarray], points: list[Point], rng: np.random.Generator
    ) -> tuple[dict[str, np.ndarray], list[Point]]:
        """Changed copies of the images, and the points as they are."""
        turned = _turn_of_hues(2 * np.pi * rng.uniform(-self.hue, self.hue))
        colours = (turned * (1 + rng.uniform(-self.channels, self.channels, 3))[:, None]).astype(np.float32)
        return {name: self._changed(image, colours, rng) for name, image in images.items()}, points

    def _changed(self, image: np.ndarray, colours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = image.shape[:2]
        down, right = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
        side, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, self.gradient)
        light = 1 + strength * (np.sin(side) * down[:, None] + np.cos(side) * right) / np.sqrt(2)
        cells = int(rng.integers(3, 17))
        noise = rng.uniform(-255, 255, (cells, cells)) * rng.uniform(0, self.texture)
        texture = _between(down, cells) @ noise @ _between(right, cells).T
        changed = (image @ colours.T) * light[..., None].astype(np.float32) + texture[..., None].astype(np.float32)
        return np.rint(np.clip(changed, 0, 255)).astype(np.uint8)


def _turn_of_hues(angle: float) -> np.ndarray:
    """The matrix [3, 3] that turns colours by an angle (rad) about the axis of greys (Rodrigues)."""
    axis = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    return np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) * axis + np.sin(angle) * cross


def _between(places: np.ndarray, cells: int) -> np.ndarray:
    """Weights [N, cells] that interpolate linearly between cells spread from -1 to 1."""
    return np.clip(1 - np.abs((places[:, None] + 1) / 2 * (cells - 1) - np.arange(cells)), 0, 1)
