"""Parsers of untrusted bytes return or raise UserError; they never crash, hang or take gigabytes."""

import io
import tarfile
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rlds_files import PLAIN, episode, example, jpeg, records

from vla.datasets.formats.conventions.source_card import source_card
from vla.datasets.formats.images import decode, jpeg_size
from vla.datasets.formats.readers import tfrecord
from vla.datasets.formats.readers.example import parse_example
from vla.datasets.formats.readers.rlds_features import flatten, shape_episode
from vla.datasets.formats.readers.visual_questions import conversation
from vla.datasets.shards import decode_array
from vla.datasets.tar import CutOff, tar_samples
from vla.errors import UserError

pytest.importorskip("google_crc32c")
EXAMPLE = example(episode(0, 3))
quick = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    max_leaves=12,
)


def changed(data: bytes):
    """Generates the bytes with some replaced, some removed, or the end cut off."""
    offset = st.integers(0, len(data) - 1)
    replacements = st.lists(st.tuples(offset, st.integers(0, 255)), max_size=6)

    def change(replacements, cut, end):
        result = bytearray(data)
        for at, value in replacements:
            result[at] = value
        del result[cut[0] : cut[0] + cut[1]]
        return bytes(result[: len(result) - end])

    return st.builds(change, replacements, st.tuples(offset, st.integers(0, 8)), st.sampled_from([0, 0, 1, 50, len(data) // 2]))


def survives(function, *errors):
    tracemalloc.start()
    try:
        return function()
    except (UserError, *errors):
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 << 20


@quick
@given(changed(EXAMPLE) | st.binary(max_size=200))
def test_example(data):
    parsed = survives(lambda: parse_example(data, "x"))
    if parsed is not None:
        survives(lambda: shape_episode(parsed, flatten(PLAIN), "x"))
        survives(lambda: shape_episode(parsed, {}, "x"))


@quick
@given(changed(records([EXAMPLE, EXAMPLE])) | st.binary(max_size=100))
def test_tfrecord(tmp_path, data):
    path = tmp_path / "x.tfrecord"
    path.write_bytes(data)

    def read():
        with path.open("rb") as file:
            for offset, length in tfrecord.scan(path):
                survives(lambda o=offset, n=length: tfrecord.read(file, o, n, "x"))

    survives(read)


@quick
@given(json_values)
def test_descriptions(value):
    flatten(value)
    survives(lambda: source_card(value, "x"))
    survives(lambda: conversation(value, "x"))


@quick
@given(changed(jpeg(90)) | st.binary(max_size=100))
def test_jpeg(data):
    jpeg_size(data)
    survives(lambda: decode(data, "x"))


def tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, size in (("a.jpg", 10), ("a.json", 700), ("b.jpg", 0)):
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(bytes(size)))
    return file.getvalue()


@quick
@given(changed(tar()) | st.binary(max_size=1500))
def test_tar(tmp_path, data):
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    for sample in survives(lambda: list(tar_samples(path)), CutOff) or ():
        for offset, size in sample.members.values():
            assert offset >= 0 and 0 <= size <= len(data)


@quick
@given(st.data())
def test_array(data):
    file = io.BytesIO()
    np.save(file, np.arange(6, dtype=np.float32).reshape(2, 3))
    content = data.draw(changed(file.getvalue()))
    survives(lambda: decode_array(content, "x"))


def test_an_image_of_gigapixels_is_not_decoded():
    from PIL import Image

    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    survives(lambda: decode(file.getvalue(), "x"))
    with pytest.raises(UserError, match="20000 x 20000 pixels|decompression bomb"):
        decode(file.getvalue(), "x")
