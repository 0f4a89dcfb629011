import importlib
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from vla.datasets.shards import ShardWriter, decode_array, decode_jpeg, decode_json, encode_jpeg
from vla.errors import UserError


def test_plain_webdataset_reads_them(robot):
    paths = [str(p) for p in sorted(robot.glob("*.tar"))]
    assert len(paths) == 5
    samples = list(wds.WebDataset(paths, shardshuffle=False).decode("rgb8"))
    assert len(samples) == 45 and samples[4]["__key__"] == "e000001_s0001"
    assert set(samples[4]) >= {"front.jpg", "wrist.jpg", "action.npy", "state.npy", "json"}
    assert samples[4]["json"]["length"] == 5 and samples[4]["front.jpg"].shape == (16, 16, 3)
    assert samples[4]["action.npy"].tolist() == pytest.approx([1.0, 0.1])


def test_encoders_do_not_import_torch():
    code = "import sys, vla.datasets.shards; print({'torch', 'webdataset'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


def test_equal_samples_give_equal_bytes(robot, make, tmp_path):
    again = make(tmp_path / "again")
    assert [p.read_bytes() for p in sorted(robot.glob("*.tar"))] == [p.read_bytes() for p in sorted(again.glob("*.tar"))]


def test_an_unfinished_shard_never_has_its_name(tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, 2) as writer:
        for i in range(3):
            writer.write(f"k{i}", {"json": {"i": i}})
        assert [p.name for p in sorted(tmp_path.iterdir())] == ["shard-000000.tar", "shard-000001.tmp"]
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["shard-000000.tar"]


def test_shards_are_not_written_over_unless_asked(tmp_path, make):
    make(tmp_path)
    with pytest.raises(UserError, match="already holds 5 shards"), ShardWriter(tmp_path):
        pass
    with ShardWriter(tmp_path, overwrite=True) as writer:
        writer.write("k", {"json": {}})
    assert [p.name for p in tmp_path.glob("*.tar")] == ["shard-000000.tar"]


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "_a", "twice"])
def test_bad_keys_are_refused(tmp_path, key):
    with pytest.raises(UserError, match="key"), ShardWriter(tmp_path) as writer:
        writer.write("twice", {"json": {}})
        writer.write(key, {"json": {}})


def test_jpeg_keeps_colour_edges():
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, 7:, 0] = 220
    assert abs(decode_jpeg(encode_jpeg(image), "x").astype(int) - image).max() < 25


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "PNG", "cut", "damaged"])
def test_torchvisions_decoder_gives_pillows_pixels(monkeypatch, mode):
    rng, file = np.random.default_rng(0), io.BytesIO()
    pixels = rng.integers(0, 255, (9, 13, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    image = Image.fromarray(pixels).convert(mode if mode in ("L", "CMYK") else "RGB")
    image.save(file, "PNG" if mode == "PNG" else "JPEG", quality=85)
    data = bytearray(file.getvalue())
    if mode == "cut":
        del data[len(data) // 2 :]
    if mode == "damaged":
        data[len(data) // 2 : len(data) // 2 + 40] = rng.bytes(40)

    def decoded():
        try:
            return decode_jpeg(bytes(data), "here").tobytes()
        except UserError as error:
            return str(error)

    importlib.import_module("torchvision.io")
    fast = decoded()
    monkeypatch.delitem(sys.modules, "torchvision.io")
    assert decoded() == fast and ("truncated" in str(fast)) == (mode == "cut")


def test_damaged_members_are_named():
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], object), allow_pickle=True)
    for decode, data in [
        (decode_jpeg, encode_jpeg(np.zeros((16, 16, 3), np.uint8))[:200]),
        (decode_jpeg, b"nothing"),
        (decode_array, b"\x93NUMPY"),
        (decode_array, pickled.getvalue()),
        (decode_json, b"{"),
        (decode_json, b"[]"),
        (decode_json, b"\xff\xfe\xfa"),
    ]:
        with pytest.raises(UserError, match="shard-7, key-9"):
            decode(data, "shard-7, key-9")
    assert decode_json(json.dumps({"a": 1}).encode(), "") == {"a": 1}
