import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from vla.datasets.robot import RobotSource
from vla.errors import UserError
from vla.sim.tabletop.scene import COLOURS, UNSEEN_COLOURS
from vla.transforms import Appearance, Augmentation, CentreCrop, Normalise, Orient, Resize

IMAGES = arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3)))
ORIENTATIONS = ["upright", "raw_opengl", "rot180", "mirrored"]


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


APPEARANCE = Appearance(hue=0.05, channels=0.2, texture=0.1, gradient=0.3)


def test_appearance_is_a_function_of_the_generator_and_moves_no_point():
    images = {name: np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8) for name in ("front", "wrist")}
    kept, points = {name: image.copy() for name, image in images.items()}, [(0.25, 0.75)]
    (one, moved), (again, _) = (APPEARANCE(images, points, np.random.default_rng(3)) for _ in range(2))
    other, _ = APPEARANCE(images, points, np.random.default_rng(4))
    assert moved == points
    for name, image in images.items():
        assert np.array_equal(image, kept[name]) and one[name].dtype == np.uint8 and one[name].shape == image.shape
        assert np.array_equal(one[name], again[name]) and not np.array_equal(one[name], other[name])
    # Texture and light are each camera's own.
    assert not np.array_equal(one["front"], one["wrist"])
    assert np.array_equal(Appearance()(images, [], np.random.default_rng(0))[0]["front"], images["front"])


@pytest.mark.parametrize(
    ("change", "least", "most"),
    [
        (Appearance(hue=0.05), 5, 45),
        (Appearance(channels=0.2), 10, 26),
        (Appearance(texture=0.1), 15, 26),
        (Appearance(gradient=0.3), 25, 39),
    ],
)
def test_appearance_changes_as_much_as_it_says(change, least, most):
    image = np.full((32, 32, 3), (128, 60, 60), np.uint8)
    off = [np.abs(change({"a": image}, [], np.random.default_rng(seed))[0]["a"].astype(int) - image).max() for seed in range(60)]
    assert least < max(off) <= most and min(off) < max(off) / 2
    # Greys stay grey under another hue.
    if change.hue:
        grey = np.full((4, 4, 3), 90, np.uint8)
        assert np.array_equal(change({"a": grey}, [], np.random.default_rng(0))[0]["a"], grey)


def test_a_small_turn_of_hues_leaves_the_tabletops_colours_their_names():
    paints = {name: np.array(rgb) for name, rgb in (COLOURS | UNSEEN_COLOURS).items()}
    for seed in range(12):
        for name, paint in paints.items():
            image = np.broadcast_to(np.rint(255 * paint), (2, 2, 3)).astype(np.uint8)
            changed = Appearance(hue=0.04)({"a": image}, [], np.random.default_rng(seed))[0]["a"][0, 0] / 255
            assert min(paints, key=lambda other: np.linalg.norm(paints[other] - changed)) == name


@pytest.mark.parametrize("wrong", [{"hue": -0.1}, {"hue": 0.6}, {"texture": 1.1}])
def test_appearance_out_of_range_is_refused(wrong):
    with pytest.raises(UserError, match="Appearance"):
        Appearance(**wrong).check()


def test_a_recipe_names_either_augmentation_by_its_settings():
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(RobotSource, "source")
    text = "source: {folder: a, augment: [{brightness: 0.1}, {hue: 0.03, texture: 0.1}]}"
    first, second = parser.instantiate_classes(parser.parse_string(text)).source.augment
    assert first == Augmentation(brightness=0.1) and second == Appearance(hue=0.03, texture=0.1)
