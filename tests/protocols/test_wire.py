import contextlib
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vla.errors import UserError
from vla.protocols import wire

arrays = hnp.arrays(
    st.sampled_from([np.uint8, np.float32, np.float64, np.int64, np.bool_, np.dtype(">f4")]),
    hnp.array_shapes(min_dims=0, max_side=4),
)


@settings(deadline=None)
@given(arrays)
def test_an_array_survives_json_and_msgpack(array):
    for back in (
        wire.decode_array(json.loads(json.dumps(wire.encode_array(array))), "x"),
        wire.unpack(wire.pack({"a": array}))["a"],
    ):
        assert back.dtype == array.dtype and back.shape == array.shape and back.tobytes() == array.tobytes()


def test_msgpack_frame_is_openpis_to_the_byte():
    # fixmap 1, "a", then openpi's map: bytes keys, dtype.str, shape.
    golden = b"\x81\xa1a\x84\xc4\x0b__ndarray__\xc3\xc4\x04data\xc4\x02\x01\x02\xc4\x05dtype\xa3|u1\xc4\x05shape\x91\x02"
    assert wire.pack({"a": np.array([1, 2], np.uint8)}) == golden


@pytest.mark.parametrize(
    "data",
    [
        {"__numpy__": "AAAA", "dtype": "|u1", "shape": [10**12]},
        {"__numpy__": "AAAA", "dtype": "|u1", "shape": [-3, -1]},
        {"__numpy__": "AAAA", "dtype": "|u1", "shape": [True, 3]},
        {"__numpy__": "AAAAAAAAAAA=", "dtype": "O", "shape": [1]},
        {"__numpy__": "AAAA", "dtype": "u1,u2", "shape": [1]},
        {"__numpy__": "AAAA", "dtype": ["a"], "shape": [1]},
        {"__numpy__": "not base64!", "dtype": "|u1", "shape": [3]},
        {"__numpy__": 3, "dtype": "|u1", "shape": [3]},
        {"dtype": "|u1", "shape": [3]},
    ],
)
def test_an_array_that_is_not_whole_is_refused(data):
    with pytest.raises(UserError):
        wire.decode_array(data, "x")


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_msgpack_or_refused(content):
    with contextlib.suppress(UserError):
        wire.unpack(content)


@pytest.mark.parametrize(
    "read",
    [
        lambda: wire.unpack(b"\xdc\x03\x84" + (b"\xdc\x03\x84" + b"\x80" * 900) * 900),
        lambda: wire.unpack(b"\xdd\x00\x20\x00\x00" + b"\x90" * 2**21),
        lambda: wire.unpack(b"\xdf\x00\x20\x00\x00" + b"\xa0\xc0" * 2**21),
        lambda: wire.read_json(b"[" + b"[]," * 2**19 + b"0]", "x"),
        lambda: wire.read_json(b"[" + b"0," * 2**20 + b"0]", "x"),
    ],
)
def test_millions_of_small_parts_are_refused_before_they_fill_the_memory(read):
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="more than|exceeds"):
            read()
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_object_arrays_are_never_packed():
    with pytest.raises(ValueError):
        wire.pack(np.array([object()]))


def test_plain_is_strict_json():
    value = wire.plain({"a": np.array([1.0, np.nan]), 3: (np.int64(2), float("inf")), "b": np.bool_(True), "c": object})
    assert json.loads(json.dumps(value, allow_nan=False))["a"] == [1.0, None] and value["3"] == [2, None]
