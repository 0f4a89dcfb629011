"""Parses tf.train.Example without TensorFlow or protobuf: a map from names to lists of bytes, floats or integers.

The wire format is protobuf's: Example {1: Features {1: map entry {1: name, 2: Feature {1: BytesList | 2: FloatList |
3: Int64List, each {1: values}}}}}. Lists of numbers may be packed or not, and may be split into several pieces.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vla.errors import UserError

Feature = list[bytes] | np.ndarray


class _Damaged(Exception):
    pass


def parse_example(data: bytes, where: str, end: int | None = None) -> dict[str, Feature]:
    """Parses the bytes up to `end`: name -> byte strings, float32 [N] or int64 [N]; UserError at `where` if they are damaged."""
    features: dict[str, Feature] = {}
    try:
        for number, low, high in _fields(data, 0, len(data) if end is None else end):
            if number != 1:
                continue
            for entry, start, end in _fields(data, low, high):
                if entry == 1:
                    name, feature = _entry(data, start, end)
                    features[name] = feature
    except (_Damaged, UnicodeDecodeError) as error:
        raise UserError(f"not a tf.train.Example: {error}", where, "copy the file again") from error
    return features


def _varint(data: bytes, offset: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while offset < end and shift < 70:
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
        shift += 7
    raise _Damaged("a number does not end")


def _fields(data: bytes, offset: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields number, start and end of a message's length-delimited fields; skips other fields."""
    while offset < end:
        byte = data[offset]
        if byte < 0x80:
            key, offset = byte, offset + 1
        else:
            key, offset = _varint(data, offset, end)
        kind = key & 7
        if kind == 2:
            size, offset = _varint(data, offset, end)
            if size > end - offset:
                raise _Damaged("a field is longer than its message")
            yield key >> 3, offset, offset + size
            offset += size
        elif kind == 0:
            _, offset = _varint(data, offset, end)
        elif kind in (1, 5):
            offset += 8 if kind == 1 else 4
            if offset > end:
                raise _Damaged("a field is longer than its message")
        else:
            raise _Damaged(f"unknown wire type {kind}")


def _entry(data: bytes, offset: int, end: int) -> tuple[str, Feature]:
    name, feature = "", np.zeros(0, np.float32)
    for number, low, high in _fields(data, offset, end):
        if number == 1:
            name = data[low:high].decode()
        elif number == 2:
            for kind, start, stop in _fields(data, low, high):
                feature = _LISTS[kind](data, start, stop) if kind in _LISTS else feature
    return name, feature


def _bytes(data: bytes, offset: int, end: int) -> list[bytes]:
    return [data[low:high] for number, low, high in _fields(data, offset, end) if number == 1]


def _floats(data: bytes, offset: int, end: int) -> np.ndarray:
    if (end - offset) % 5 == 0 and offset < end and data[offset] == 0x0D:
        # Not packed: each value follows a tag.
        table = np.frombuffer(data, np.dtype([("tag", "u1"), ("value", "<f4")]), (end - offset) // 5, offset)
        if (table["tag"] == 0x0D).all():
            return table["value"].astype(np.float32)
    pieces = [_array(data, low, high) for number, low, high in _fields(data, offset, end) if number == 1]
    return pieces[0] if len(pieces) == 1 else np.concatenate([np.zeros(0, np.float32), *pieces])


def _array(data: bytes, low: int, high: int) -> np.ndarray:
    if (high - low) % 4:
        raise _Damaged("a list of floats has a broken length")
    return np.frombuffer(data, "<f4", (high - low) // 4, low).astype(np.float32, copy=False)


def _integers(data: bytes, offset: int, end: int) -> np.ndarray:
    if offset < end and data[offset] == 0x08:
        # Not packed: the values have different lengths, so they are parsed one by one.
        values = []
        while offset < end:
            key, offset = _varint(data, offset, end)
            if key != 8:
                raise _Damaged("a list of integers contains something else")
            value, offset = _varint(data, offset, end)
            values.append(value & 0xFFFFFFFFFFFFFFFF)
        return np.array(values, np.uint64).view(np.int64)
    pieces = [varints(data[low:high]) for number, low, high in _fields(data, offset, end) if number == 1]
    return pieces[0] if len(pieces) == 1 else np.concatenate([np.zeros(0, np.int64), *pieces])


def varints(data: bytes) -> np.ndarray:
    """Decodes packed varints to int64 [N]."""
    raw = np.frombuffer(data, np.uint8)
    last = raw < 0x80
    if last.all():
        return raw.astype(np.int64)
    stops = np.flatnonzero(last)
    if not len(stops) or stops[-1] != len(raw) - 1:
        raise _Damaged("a number does not end")
    starts = np.append(0, stops[:-1] + 1)
    lengths = stops - starts + 1
    if lengths.max() > 10:
        raise _Damaged("a number is too long")
    value = np.zeros(len(starts), np.uint64)
    for k in range(int(lengths.max())):
        has_byte = lengths > k
        value[has_byte] |= (raw[starts[has_byte] + k] & 0x7F).astype(np.uint64) << np.uint64(7 * k)
    return value.view(np.int64)


_LISTS = {1: _bytes, 2: _floats, 3: _integers}
