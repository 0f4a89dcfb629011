"""JPEGs that are not what they seem: turned by EXIF, or CMYK."""

import io

import numpy as np
import pytest
from PIL import Image

from vla.datasets.formats.images import Ready, decode, image_size, jpeg_size
from vla.datasets.shards import decode_jpeg

PIXELS = np.zeros((16, 32, 3), np.uint8)
PIXELS[:8, :16], PIXELS[8:, 16:] = (250, 20, 20), (20, 20, 250)
STORED = {  # what a camera stores under each value of the tag
    1: PIXELS,
    2: PIXELS[:, ::-1],
    3: PIXELS[::-1, ::-1],
    4: PIXELS[::-1],
    5: PIXELS.transpose(1, 0, 2),
    6: np.rot90(PIXELS),
    7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(PIXELS, -1),
}


def jpeg(pixels, tag=None, mode="RGB", kind="JPEG"):
    file, exif = io.BytesIO(), Image.Exif()
    if tag is not None:
        exif[0x0112] = tag
    Image.fromarray(np.ascontiguousarray(pixels)).convert(mode).save(file, kind, quality=95, subsampling=0, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("tag", STORED)
def test_images_are_read_as_a_person_sees_them(tag, kind):
    data = jpeg(STORED[tag], tag, kind=kind)
    for pixels in (decode(data, "here"), decode_jpeg(data, "here")):
        assert pixels.shape == PIXELS.shape and np.abs(pixels.astype(int) - PIXELS).mean() < 4
    assert image_size(data, "here") == (16, 32)


@pytest.mark.parametrize("tag", STORED)
def test_what_is_written_is_upright_and_needs_no_tag(tag):
    data = jpeg(STORED[tag], tag)
    written = Ready(16, 32)(data, "here")
    assert (written is data) == (tag == 1), "a JPEG that is upright already is passed on"
    with Image.open(io.BytesIO(written)) as image:
        assert image.getexif().get(0x0112, 1) == 1
        assert np.abs(np.asarray(image, int) - PIXELS).mean() < 5


@pytest.mark.parametrize("tag", [0, 9, 65535])
def test_a_tag_that_says_nothing_changes_nothing(tag):
    data = jpeg(PIXELS, tag)
    assert Ready(16, 32)(data, "here") is data and decode(data, "here").shape == decode_jpeg(data, "here").shape == PIXELS.shape


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_tags_change_nothing():
    data = jpeg(PIXELS, 6)
    at = data.index(b"Exif\0\0") + 6
    for first, end in ((0, 8), (4, 8), (8, 14)):
        spoilt = data[: at + first] + b"\xff" * (end - first) + data[at + end :]
        assert jpeg_size(Ready(16, 32)(spoilt, "here")) == (16, 32) and decode(spoilt, "here").shape == PIXELS.shape


def test_cmyk_is_written_as_rgb_and_grey_is_passed_on():
    cmyk, grey = jpeg(PIXELS, mode="CMYK"), jpeg(PIXELS, mode="L")
    with Image.open(io.BytesIO(Ready(16, 32)(cmyk, "here"))) as image:
        assert image.mode == "RGB" and np.abs(np.asarray(image, int) - decode(cmyk, "here")).mean() < 5
    assert Ready(16, 32)(grey, "here") is grey and image_size(cmyk, "here") == image_size(grey, "here") == (16, 32)
