"""Folders copied by macOS to a disk without attributes: every file NAME has a companion ._NAME."""

import pytest
from lerobot_files import WRITERS
from rlds_files import jpeg, plain
from test_hdf5 import libero
from test_tars import image_text, robot_tars
from test_visual_questions import llava

from vla.datasets.formats.inspection.check import verify
from vla.datasets.formats.readers.recognise import open_reader, recognise
from vla.datasets.index import ShardIndex


def hdf5(folder):
    folder.mkdir()
    libero(folder / "a.hdf5")
    return folder


SETS = {
    "rlds": plain,
    "hdf5": hdf5,
    "webdataset": robot_tars,
    "image-text": lambda folder: image_text(folder, [{"jpg": jpeg(1), "txt": b"x"}]),
    "llava": lambda folder: llava(folder).parent,
    **{f"lerobot {version}": write for version, write in WRITERS.items()},
}


def with_companions(folder):
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(147))
    return folder


def verified(path):
    reader = open_reader(path)
    return verify(reader, reader.card())


@pytest.mark.parametrize("name", SETS)
def test_companions_are_passed_over(tmp_path, name):
    folder = SETS[name](tmp_path / "set")
    path = folder / "llava.json" if name == "llava" else folder
    before = verified(path)
    with_companions(folder)
    assert recognise(path) == name.partition(" ")[0]
    assert verified(path) == before and before.records and not before.damaged


def test_companions_of_shards_are_passed_over(tmp_path, make):
    folder = with_companions(make(tmp_path / "shards"))
    assert len(ShardIndex(folder)) == 45 and recognise(folder) == "shards"
    assert not verified(folder).damaged
