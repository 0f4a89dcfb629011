import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from vla.errors import UserError
from vla.transforms import Augmentation, CentreCrop, Normalise, Orient, Resize

IMAGES = arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3)))
ORIENTATIONS = ["upright", "raw_opengl", "rot180"]


@given(IMAGES, st.sampled_from(ORIENTATIONS))
def test_orient_and_back(image, source):
    turn = Orient(source)
    assert np.array_equal(turn.inverse(turn(image)), image)


@given(IMAGES)
def test_normalise_and_back_is_exact(image):
    normalise = Normalise()
    pixels = normalise(image)
    assert pixels.dtype == np.float32 and pixels.shape == (3, *image.shape[:2]) and abs(pixels).max() <= 1
    assert np.array_equal(normalise.inverse(pixels), image)


@pytest.mark.parametrize("source", ORIENTATIONS)
def test_a_point_follows_its_pixel(source):
    image = np.zeros((16, 16, 3), np.uint8)
    image[4:6, 9:11] = 255
    point = (10 / 16, 5 / 16)
    for step in (Orient(source), CentreCrop(0.75), Resize(24, 24)):
        image, point = step(image), step.point(point)
    rows, columns = np.nonzero(image[..., 0] > 127)
    u, v = point
    assert (columns.mean() + 0.5) / 24 == pytest.approx(u, abs=0.02) and (rows.mean() + 0.5) / 24 == pytest.approx(v, abs=0.02)


def test_resize_leaves_the_right_size_alone():
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    assert Resize(6, 8)(image) is image and Resize(3, 4)(image).shape == (3, 4, 3)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), *[st.integers(1, 90)] * 4)
def test_resize_is_pillows_but_for_rounding(seed, height, width, to_height, to_width):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    image.setflags(write=False)  # as it comes out of a message
    theirs = Image.fromarray(image).resize((to_width, to_height), Image.Resampling.BILINEAR)
    ours = Resize(to_height, to_width)(image)
    assert ours.dtype == np.uint8 and np.abs(ours.astype(int) - np.asarray(theirs)).max() <= 2


@settings(max_examples=30)
@given(st.integers(0, 1000))
def test_augmentation_moves_the_point_with_the_first_camera(seed):
    front, wrist = np.zeros((2, 16, 16, 3), np.uint8)
    front[8, 8] = 255
    augment = Augmentation({"front": 3})
    images, (point,) = augment({"front": front, "wrist": wrist}, [(8.5 / 16, 8.5 / 16)], np.random.default_rng(seed))
    row, column = np.argwhere(images["front"][..., 0])[0]
    assert point == pytest.approx(((column + 0.5) / 16, (row + 0.5) / 16))
    assert np.array_equal(images["wrist"], wrist) and front[8, 8, 0] == 255


def test_augmentation_is_a_function_of_its_generator_and_keeps_the_size():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    augment = Augmentation({"wrist": 2}, brightness=0.1, contrast=0.2)

    def draw(seed):
        return augment({"front": image, "wrist": image}, [], np.random.default_rng(seed))[0]

    for name in ("front", "wrist"):
        assert np.array_equal(draw(1)[name], draw(1)[name]) and not np.array_equal(draw(1)[name], draw(2)[name])
        assert draw(1)[name].shape == image.shape and draw(1)[name].dtype == np.uint8


def test_mistakes_are_named():
    with pytest.raises(UserError, match="side"):
        Augmentation({"side": 1})({"front": np.zeros((4, 4, 3), np.uint8)}, [], np.random.default_rng(0))
    with pytest.raises(UserError, match="orientation"):
        Orient("sideways")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="crop"):
        CentreCrop(0.0)
    with pytest.raises(UserError, match="float64"):
        Normalise()(np.zeros((4, 4, 3)))
