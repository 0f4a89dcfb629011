"""Reads TFRecord files without TensorFlow: length and payload, each with a masked CRC-32C.

A record is `uint64 length, uint32 crc(length), payload, uint32 crc(payload)`, little endian (TensorFlow, lib/io/record_writer).
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import IO

from vla.datasets.formats.readers.base import LIMIT, library
from vla.errors import UserError
from vla.files import why_not_data

_HEAD = struct.Struct("<QI")
_MASK = 0xA282EAD8


@functools.cache
def _crc32c() -> ModuleType:
    return library("google_crc32c", "reading TFRecords")


def masked_crc(data: bytes) -> int:
    """Returns the CRC-32C of the bytes, rotated and offset as TFRecord stores it."""
    crc = _crc32c().value(data)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


class Broken(UserError):
    """The rest of a file cannot be read: without a record's length the next record cannot be found."""


def scan(path: str | Path) -> Iterator[tuple[int, int]]:
    """Yields (offset, length) of each payload in a file, without reading payloads.

    Raises:
        Broken: a length is damaged or too large, or the file ends within a record; the records before it are intact.
    """
    if why := why_not_data(path):
        raise Broken(why, str(path))
    size = os.path.getsize(path)
    with open(path, "rb", buffering=0) as file:
        offset, record = 0, 0
        while offset < size:
            head = os.pread(file.fileno(), _HEAD.size, offset)
            where = f"{path}, record {record}"
            if len(head) < _HEAD.size:
                raise Broken("the file ends within a record's header", where, "copy the file again")
            length, crc = _HEAD.unpack(head)
            if masked_crc(head[:8]) != crc:
                raise Broken("the record's length has a wrong checksum", where, "copy the file again")
            if length > LIMIT:
                raise Broken(f"the record's length is {length} bytes", where, f"at most {LIMIT} are read")
            if offset + _HEAD.size + length + 4 > size:
                raise Broken("the file ends within the record", where, "copy the file again")
            yield offset + _HEAD.size, length
            offset += _HEAD.size + length + 4
            record += 1


def read(file: IO[bytes], offset: int, length: int, where: str) -> bytes:
    """Reads a payload followed by the 4 bytes of its checksum; UserError at `where` if it is cut off or damaged."""
    data = os.pread(file.fileno(), length + 4, offset)
    if len(data) < length + 4:
        raise UserError("the file ends within the record", where, "copy the file again")
    # Both CRCs include the checksum's own bytes: slicing them off would copy the payload, which takes longer than parsing.
    expected = (int.from_bytes(data[length:], "little") - _MASK) & 0xFFFFFFFF
    if _crc32c().extend((expected >> 17 | expected << 15) & 0xFFFFFFFF, data[length:]) != _crc32c().value(data):
        raise UserError("the record has a wrong checksum", where, "copy the file again")
    return data
