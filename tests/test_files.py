"""Files that do not hold what their names say: pointers of Git LFS, and compressed ones."""

import bz2
import gzip
import lzma

import pytest

from vla.checkpoint import read_checkpoint
from vla.datasets.formats.images import decode
from vla.datasets.formats.job import ConvertOptions, make_job
from vla.datasets.formats.readers import tfrecord
from vla.datasets.formats.readers.hdf5 import HDF5Reader
from vla.datasets.formats.readers.recognise import recognise
from vla.datasets.formats.readers.tars import TarReader
from vla.datasets.formats.readers.visual_questions import LLaVAReader
from vla.datasets.formats.video import open_video
from vla.datasets.index import ShardIndex
from vla.datasets.shards import decode_jpeg
from vla.errors import UserError
from vla.files import why_not_data
from vla.models.load import load_vlm
from vla.training.saving import damage

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (POINTER, "git lfs pull"),
        (gzip.compress(b"data"), "gunzip"),
        (bz2.compress(b"data"), "bunzip2"),
        (lzma.compress(b"data"), "unxz"),
        (b"\x28\xb5\x2f\xfd rest", "unzstd"),
    ],
    # The content is no name for a test: gzip writes the time into it.
    ids=["pointer", "gzip", "bzip2", "xz", "zstd"],
)
def test_what_is_no_data_is_told(tmp_path, content, why):
    (tmp_path / "file").write_bytes(content)
    assert why in why_not_data(tmp_path / "file") and why in why_not_data(content)


def test_anything_else_may_be_data(tmp_path):
    (tmp_path / "short").write_bytes(b"v")
    for file in (b"", b"version 2", b"\xff\xd8\xff", tmp_path / "short", tmp_path / "missing", tmp_path):
        assert why_not_data(file) == ""


def open_film(path):
    with open_video(path, str(path)):
        pass


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("a.tfrecord", lambda path: list(tfrecord.scan(path))),
        ("a.mp4", open_film),
        ("a.hdf5", lambda path: HDF5Reader(path).open(str(path))),
        ("a.json", lambda path: LLaVAReader(path).refs()),
        ("shard-000000.tar", lambda path: ShardIndex(path.parent)),
        ("a.tar.gz", recognise),
        ("a.ckpt", read_checkpoint),
        ("a.jpg", lambda path: decode(path.read_bytes(), str(path))),
        ("b.jpg", lambda path: decode_jpeg(path.read_bytes(), str(path))),
    ],
)
def test_every_reader_says_so(tmp_path, name, read):
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(UserError, match="git lfs pull"):
        read(tmp_path / name)


def test_a_tar_file_that_is_none_is_damage_of_the_data_set(tmp_path):
    (tmp_path / "a.tar").write_bytes(gzip.compress(b"0" * 10240))
    (ref,) = TarReader(tmp_path / "a.tar").refs()
    assert "compressed with gzip" in ref.damage
    with pytest.raises(UserError, match="gunzip") as error:
        make_job(ConvertOptions(str(tmp_path / "a.tar"), str(tmp_path / "out")))
    assert "card" not in str(error.value) and "skip" not in str(error.value)


def test_weights_and_checkpoints(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vla-tiny"}')
    (tmp_path / "model.safetensors").write_bytes(POINTER)
    with pytest.raises(UserError, match="git lfs pull"):
        load_vlm(tmp_path)
    (tmp_path / "a.ckpt").write_bytes(POINTER)
    assert "git lfs pull" in damage(tmp_path / "a.ckpt")
