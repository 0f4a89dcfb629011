import json
import struct
from pathlib import Path

import numpy as np
import pytest
from rlds_files import LENGTHS, PLAIN, episode, example, features, group, jpeg, masked, plain, records, tensor, text, write

from vla.datasets.formats.conventions.prepare import Changes, prepare
from vla.datasets.formats.readers import tfrecord
from vla.datasets.formats.readers.example import parse_example, varints
from vla.datasets.formats.readers.rlds import RLDSReader
from vla.errors import UserError

pytest.importorskip("google_crc32c")


def read_all(folder):
    reader = RLDSReader(folder)
    return [reader.read(ref) for ref in reader.refs()]


@pytest.mark.parametrize("described", [True, False])
def test_episodes_come_back_as_written(tmp_path, described):
    raws = read_all(plain(tmp_path, description=None if described else False))
    # The first file has the even episodes, the second the odd ones.
    for raw, number in zip(raws, (0, 2, 1, 3), strict=True):
        expected = episode(number, LENGTHS[number])
        assert np.array_equal(raw["action"], expected["steps/action"])
        assert raw["action"].shape == (LENGTHS[number], 7)
        assert raw["language_instruction"] == [f"lift object {number}"] * LENGTHS[number]
        assert list(raw["observation/image"].rows(range(LENGTHS[number]))) == expected["steps/observation/image"]
        assert np.array_equal(raw["observation/state"], expected["steps/observation/state"])
        if described:
            assert raw["is_last"].dtype == bool and raw["is_last"].tolist()[-1] is True
            assert raw["episode_metadata/file_path"] == f"/data/{number}.npy"


def test_examples_written_by_protobuf():
    rng = np.random.default_rng(0)
    given = {
        "a/bytes": [rng.bytes(n) for n in (0, 1, 300)],
        "floats": rng.normal(size=77).astype(np.float32),
        "ints": np.array([0, 1, -1, 127, 128, 2**40, -(2**63), 2**63 - 1]),
        "none": np.zeros(0, np.float32),
        "ö": [b"\xff"],
    }
    parsed = parse_example(example(given), "x")
    assert parsed["a/bytes"] == given["a/bytes"] and parsed["ö"] == [b"\xff"]
    assert np.array_equal(parsed["floats"], given["floats"]) and np.array_equal(parsed["ints"], given["ints"])
    assert len(parsed["none"]) == 0


def wire(number, kind, content):
    return bytes([number << 3 | kind]) + (bytes([len(content)]) if kind == 2 else b"") + content


def test_lists_may_be_unpacked_or_split():
    floats = [struct.pack("<f", x) for x in (1.5, -2, 3)]
    unpacked = b"".join(wire(1, 5, x) for x in floats)
    pieces = wire(1, 2, floats[0] + floats[1]) + wire(1, 2, floats[2])
    integers = b"".join(wire(1, 0, x) for x in (b"\x05", b"\x80\x01"))
    for values, kind, expected in ((unpacked, 2, [1.5, -2, 3]), (pieces, 2, [1.5, -2, 3]), (integers, 3, [5, 128])):
        entry = wire(1, 2, b"f") + wire(2, 2, wire(kind, 2, values))
        assert parse_example(wire(1, 2, wire(1, 2, entry)), "x")["f"].tolist() == expected
    assert varints(b"\x00\x96\x01\x7f").tolist() == [0, 150, 127]


def test_shapes_types_and_encodings(tmp_path):
    import zlib

    described = features(
        flag=tensor("bool"),
        big=tensor("uint64"),
        matrix=tensor("float32", 2, 3),
        packed=tensor("float32", 2, encoding="zlib"),
        raw=tensor("string"),
        nested=group(deep=tensor("int32", 1)),
        words={"sequence": {"feature": text(), "length": "-1"}},
        is_first=tensor("bool"),
    )
    packed = np.arange(4, dtype=np.float32).reshape(2, 2)
    given = {
        "steps/flag": np.array([0, 1]),
        "steps/big": np.array([2**64 - 1, 3], np.uint64).view(np.int64),
        "steps/matrix": np.arange(12, dtype=np.float32),
        "steps/packed": [zlib.compress(row.tobytes()) for row in packed],
        "steps/raw": [b"\x00", b"\x01"],
        "steps/nested/deep": np.array([7, -8]),
        "steps/words/ragged_flat_values": [b"a", b"b", b"c"],
        "steps/words/ragged_row_lengths_0": np.array([2, 1]),
        "steps/is_first": np.array([1, 0]),
        "episode_metadata/file_path": [b"x"],
    }
    (raw,) = read_all(write(tmp_path, [given], described, files=1))
    assert raw["flag"].tolist() == [False, True] and raw["big"].tolist() == [2**64 - 1, 3]
    assert raw["matrix"].shape == (2, 2, 3) and np.array_equal(raw["packed"], packed)
    assert raw["nested/deep"].tolist() == [[7], [-8]] and raw["raw"] == [b"\x00", b"\x01"]
    assert raw["words"] == ["a b", "c"]


def test_checksum():
    # RFC 3720, B.4
    assert masked(bytes(32)) == struct.pack("<I", tfrecord.masked_crc(bytes(32)))
    crc = (tfrecord.masked_crc(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF
    assert (crc >> 17 | crc << 15) & 0xFFFFFFFF == 0xE3069283


def damaged(folder, change):
    plain(folder, files=1)
    path = next(folder.glob("*.tfrecord*"))
    data = bytearray(path.read_bytes())
    path.write_bytes(change(data) or data)
    return RLDSReader(folder)


def test_a_damaged_payload_is_named_and_the_others_are_read(tmp_path):
    def change(data):
        data[100] ^= 1

    reader = damaged(tmp_path, change)
    first, *rest = reader.refs()
    with pytest.raises(UserError, match="wrong checksum") as caught:
        reader.read(first)
    assert "toy-train.tfrecord-00000-of-00001, record 0" in str(caught.value)
    assert [len(reader.read(ref)["action"]) for ref in rest] == [3, 4, 6]


@pytest.mark.parametrize(
    ("change", "why", "intact"),
    [
        (lambda d: d[:-10], "ends within the record", 3),
        (lambda d: d + d[:7], "ends within a record's header", 4),
        (lambda d: d[:8] + b"\0\0\0\0" + d[12:], "wrong checksum", 0),
        (lambda d: (h := struct.pack("<Q", 2**60)) + masked(h) + d[12:], "length is 1152921504606846976 bytes", 0),
    ],
)
def test_records_after_a_broken_length_are_reported(tmp_path, change, why, intact):
    reader = damaged(tmp_path, lambda d: change(bytes(d)))
    refs = reader.refs()
    assert len(refs) == intact + 1 and not any(ref.damage for ref in refs[:-1])
    assert why in refs[-1].damage and f"record {intact}" in refs[-1].name


def test_missing_files_and_episodes_are_reported(tmp_path):
    plain(tmp_path)
    next(tmp_path.glob("*00001-of-00002")).unlink()
    assert [ref.damage for ref in RLDSReader(tmp_path).refs()] == ["", "", "the file is missing"]
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"][0] = "3"
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    assert "has 2 records, dataset_info.json says 3" in RLDSReader(tmp_path).refs()[2].damage


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda e: e.pop("steps/action"), "no steps/action"),
        (lambda e: e.update({"steps/action": e["steps/action"][:-1]}), "not 5 steps of"),
        (lambda e: e.update({"steps/observation/image": [jpeg(0)]}), "1 values for 5 steps"),
    ],
)
def test_an_episode_that_does_not_fit_its_description_is_named(tmp_path, change, why):
    given = episode(0, 5)
    change(given)
    reader = RLDSReader(write(tmp_path, [given], PLAIN, files=1))
    with pytest.raises(UserError, match=why) as caught:
        prepare(reader.read(reader.refs()[0]), reader.card(), Changes(), "record 0")
    assert "record 0" in str(caught.value)


def test_a_version_folder_is_found(tmp_path):
    plain(tmp_path / "toy" / "1.0.0")
    assert len(RLDSReader(tmp_path / "toy").refs()) == 4
    plain(tmp_path / "toy" / "2.0.0")
    with pytest.raises(UserError, match="2 data sets or versions"):
        RLDSReader(tmp_path / "toy")


def test_invalid_bytes_raise():
    for data in (b"\xff" * 20, b"\x0a\xff\xff\xff\xff\x0f", b"\x0b", records([b"x"])):
        with pytest.raises(UserError, match="record 3"):
            parse_example(data, "record 3")


def test_a_data_set_written_by_tfds():
    """tfds/ was serialised by tensorflow-datasets 4.9.10 (encoder and features.json) and framed by tfrecord 1.14.6."""
    raws = read_all(Path(__file__).parent / "tfds")
    assert [len(raw["action"]) for raw in raws] == [3, 2]
    for raw, n in zip(raws, (3, 2), strict=True):
        steps = np.arange(n)
        assert np.array_equal(raw["action"], np.arange(7) + steps[:, None]) and raw["language_instruction"] == [f"do {n}"] * n
        assert raw["big"].tolist() == [2**64 - 1 - t for t in range(n)] and raw["is_first"].tolist() == [t == 0 for t in range(n)]
        assert raw["zl"].tolist() == [[t, 0.5] for t in range(n)] and raw["observation/state"].tolist() == [
            [t, n] for t in range(n)
        ]
        assert raw["episode_metadata/file_path"] == "x"
