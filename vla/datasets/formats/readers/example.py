"""tf.train.Example without TensorFlow or protobuf: a map from names to lists of bytes, floats or integers.

The wire format is protobuf's: Example {1: Features {1: map entry {1: name, 2: Feature {1: BytesList | 2: FloatList |
3: Int64List, each {1: values}}}}}. Lists of numbers may be packed or not, and may come in several pieces.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vla.errors import UserError

Feature = list[bytes] | np.ndarray


class _Damaged(Exception):
    pass


def parse_example(data: bytes, where: str, end: int | None = None) -> dict[str, Feature]:
    """Names -> byte strings, float32 [N] or int64 [N], of the bytes up to `end`; UserError naming `where` for anything else."""
    found: dict[str, Feature] = {}
    try:
        for number, low, high in _fields(data, 0, len(data) if end is None else end):
            if number != 1:
                continue
            for entry, start, end in _fields(data, low, high):
                if entry == 1:
                    name, feature = _entry(data, start, end)
                    found[name] = feature
    except (_Damaged, UnicodeDecodeError) as error:
        raise UserError(f"not a tf.train.Example: {error}", where, "copy the file again") from error
    return found


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _Damaged("a number has no end")


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The length-delimited fields of a message: number, start, end; others are passed over."""
    while at < end:
        byte = data[at]
        if byte < 0x80:
            key, at = byte, at + 1
        else:
            key, at = _varint(data, at, end)
        kind = key & 7
        if kind == 2:
            size, at = _varint(data, at, end)
            if size > end - at:
                raise _Damaged("a field is longer than what holds it")
            yield key >> 3, at, at + size
            at += size
        elif kind == 0:
            _, at = _varint(data, at, end)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
            if at > end:
                raise _Damaged("a field is longer than what holds it")
        else:
            raise _Damaged(f"unknown wire type {kind}")


def _entry(data: bytes, at: int, end: int) -> tuple[str, Feature]:
    name, feature = "", np.zeros(0, np.float32)
    for number, low, high in _fields(data, at, end):
        if number == 1:
            name = data[low:high].decode()
        elif number == 2:
            for kind, start, stop in _fields(data, low, high):
                feature = _LISTS[kind](data, start, stop) if kind in _LISTS else feature
    return name, feature


def _bytes(data: bytes, at: int, end: int) -> list[bytes]:
    return [data[low:high] for number, low, high in _fields(data, at, end) if number == 1]


def _floats(data: bytes, at: int, end: int) -> np.ndarray:
    if (end - at) % 5 == 0 and at < end and data[at] == 0x0D:
        # Not packed: a tag before each value.
        table = np.frombuffer(data, np.dtype([("tag", "u1"), ("value", "<f4")]), (end - at) // 5, at)
        if (table["tag"] == 0x0D).all():
            return table["value"].astype(np.float32)
    pieces = [_array(data, low, high) for number, low, high in _fields(data, at, end) if number == 1]
    return pieces[0] if len(pieces) == 1 else np.concatenate([np.zeros(0, np.float32), *pieces])


def _array(data: bytes, low: int, high: int) -> np.ndarray:
    if (high - low) % 4:
        raise _Damaged("a list of floats has a broken length")
    return np.frombuffer(data, "<f4", (high - low) // 4, low).astype(np.float32, copy=False)


def _integers(data: bytes, at: int, end: int) -> np.ndarray:
    if at < end and data[at] == 0x08:
        # Not packed: dropping the tags needs the values' own ends.
        values = []
        while at < end:
            key, at = _varint(data, at, end)
            if key != 8:
                raise _Damaged("a list of integers holds something else")
            value, at = _varint(data, at, end)
            values.append(value & 0xFFFFFFFFFFFFFFFF)
        return np.array(values, np.uint64).view(np.int64)
    pieces = [varints(data[low:high]) for number, low, high in _fields(data, at, end) if number == 1]
    return pieces[0] if len(pieces) == 1 else np.concatenate([np.zeros(0, np.int64), *pieces])


def varints(data: bytes) -> np.ndarray:
    """Packed varints -> int64 [N]."""
    raw = np.frombuffer(data, np.uint8)
    last = raw < 0x80
    if last.all():
        return raw.astype(np.int64)
    stops = np.flatnonzero(last)
    if not len(stops) or stops[-1] != len(raw) - 1:
        raise _Damaged("a number has no end")
    starts = np.append(0, stops[:-1] + 1)
    lengths = stops - starts + 1
    if lengths.max() > 10:
        raise _Damaged("a number is too long")
    value = np.zeros(len(starts), np.uint64)
    for k in range(int(lengths.max())):
        there = lengths > k
        value[there] |= (raw[starts[there] + k] & 0x7F).astype(np.uint64) << np.uint64(7 * k)
    return value.view(np.int64)


_LISTS = {1: _bytes, 2: _floats, 3: _integers}
