"""Images in every form in which data sets hold them; what is none is named, with what to do."""

import numpy as np
import pytest
from rlds_files import jpeg, png
from test_hdf5 import libero

from vla.datasets.formats.conventions.prepare import Changes
from vla.datasets.formats.convert import run
from vla.datasets.formats.images import rgb
from vla.datasets.formats.job import ConvertOptions, make_job
from vla.datasets.formats.readers.base import InMemoryFrames
from vla.datasets.formats.readers.frames import frames_of
from vla.datasets.robot import RobotSource
from vla.errors import UserError

h5py = pytest.importorskip("h5py")
PIXELS = np.random.default_rng(0).integers(0, 255, (5, 12, 16, 3), np.uint8)


def padded(images):
    """As ALOHA's compressed images: rows of one length."""
    longest = max(map(len, images)) + 7
    return np.stack([np.frombuffer(image.ljust(longest, b"\0"), np.uint8) for image in images])


@pytest.mark.parametrize(
    "value",
    [
        InMemoryFrames(PIXELS),
        PIXELS,
        PIXELS[..., :1],
        PIXELS[..., 0],
        np.moveaxis(PIXELS, -1, 1),
        np.concatenate([PIXELS, PIXELS[..., :1]], -1),
    ],
)
def test_pixels_of_8_bits(value):
    frames = [rgb(frame, "e") for frame in frames_of(value, "camera", "e").rows([1, 3])]
    grey = not isinstance(value, InMemoryFrames) and (value.ndim == 3 or value.shape[-1] == 1)
    assert np.array_equal(frames, np.repeat(PIXELS[[1, 3], ..., :1], 3, -1) if grey else PIXELS[[1, 3]])


def test_encoded_images():
    images = [jpeg(1), png(2), jpeg(3)]
    for value in (images, padded(images)):
        assert list(frames_of(value, "camera", "e").rows([0, 1, 2])) == images


@pytest.mark.parametrize(
    ("value", "found", "fix"),
    [
        (PIXELS / 255, "float64 values of shape [5, 12, 16, 3]", "again as uint8, 0 to 255"),
        (PIXELS.astype(np.uint16), "uint16 values of shape [5, 12, 16, 3]", "more than 8 bits are not read"),
        (PIXELS[..., 0].astype(np.int64), "int64 values of shape [5, 12, 16]", "more than 8 bits are not read"),
        (np.zeros((5, 7), np.uint8), "uint8 values of shape [5, 7]", "another key"),
        (["a"] * 5, "5 texts", "another key"),
        ([b"a"] * 5, "5 byte strings", "another key"),
        ("a", "a text", "another key"),
        ([], "nothing that can be read", "another key"),
    ],
)
def test_what_is_no_image_is_named(value, found, fix):
    with pytest.raises(UserError) as error:
        frames_of(value, "camera", "file, episode 3")
    assert str(error.value).startswith(f"file, episode 3: camera holds no images of 8 bits but {found}; images are uint8")
    assert fix in str(error.value)


def only(path, pixels):
    """Demonstrations with this camera alone."""
    with h5py.File(libero(path), "a") as file:
        for demo in file["data"].values():
            length = len(demo["actions"])
            del demo["obs/agentview_rgb"], demo["obs/eye_in_hand_rgb"]
            demo["obs/front"] = np.resize(pixels, (length, *pixels.shape[1:]))
    return path


CARD = "cameras: {front: {key: obs/front}}\naction: [{key: actions, names: [a, b, c, d, e, f, g]}]\ntext: go\n"


@pytest.mark.parametrize("pixels", [PIXELS[..., 0], np.moveaxis(PIXELS, -1, 1), padded([jpeg(t) for t in range(5)])])
def test_a_card_makes_them_a_camera(tmp_path, pixels):
    path = only(tmp_path / "a.hdf5", pixels)
    (tmp_path / "card.yaml").write_text(CARD)
    assert run(make_job(ConvertOptions(str(path), str(tmp_path / "out"), card=str(tmp_path / "card.yaml"))))["steps"] == 12
    image = RobotSource(tmp_path / "out", chunk=1).sample(1, np.random.default_rng(0)).images["front"]
    assert image.shape == ((12, 16, 3) if pixels.ndim > 2 else (16, 16, 3))


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        (
            PIXELS[..., 0],
            r"no images are known to be a camera's; it has obs/front \(uint8 values of shape \[4, 12, 16\]\).*"
            r"cameras: {front: {key: obs/front}}",
        ),
        (PIXELS / 255, r"no images of 8 bits but obs/front \(float64 values of shape \[4, 12, 16, 3\]\).*again as uint8"),
        (PIXELS[:, 0, 0], r"no images but actions \(float64 values of shape \[4, 7\]\), .*a policy needs images"),
    ],
)
def test_without_a_card_what_was_found_is_said(tmp_path, pixels, says):
    path = only(tmp_path / "a.hdf5", pixels)
    with pytest.raises(
        UserError, match=f"(?s)the data set names no cameras: it has {says}".replace("it has no images are", "no images are")
    ):
        make_job(ConvertOptions(str(path), str(tmp_path / "out")))


def test_a_card_without_cameras_or_actions(tmp_path):
    path = libero(tmp_path / "a.hdf5")
    for text, says in [
        ("action: [{key: actions, names: [a, b, c, d, e, f, g]}]", "names no cameras: .*key: obs/agentview_rgb"),
        ("cameras: {front: {key: obs/agentview_rgb}}", "does not say which values are the action; there are actions .float64"),
    ]:
        (tmp_path / "card.yaml").write_text(text)
        with pytest.raises(UserError, match=f"(?s)card.yaml: the card {says}"):
            make_job(ConvertOptions(str(path), str(tmp_path / "out"), card=str(tmp_path / "card.yaml")))


def test_why_no_record_can_be_used(tmp_path):
    path = libero(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            demo["actions"][...] = 0
    with pytest.raises(
        UserError, match=r"none of the 3 records can be used: all steps are no-ops \(3\)\nFix: leave out --noops drop"
    ):
        make_job(ConvertOptions(str(path), str(tmp_path / "out"), card="libero", changes=Changes(noops=True)))
    with h5py.File(path, "a") as file:
        del file["data"].attrs["problem_info"]
    with pytest.raises(UserError, match=r"no instruction \(3\)\nFix: give an instruction: --instruction TEXT"):
        make_job(ConvertOptions(str(path), str(tmp_path / "out"), card="libero"))
    libero(tmp_path / "b.hdf5", {"demo_0": 1})
    with pytest.raises(UserError, match=r"no step is left \(1\)\nFix: look at the card's `steps` and `alignment`"):
        make_job(ConvertOptions(str(tmp_path / "b.hdf5"), str(tmp_path / "out"), card="libero"))
