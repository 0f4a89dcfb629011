"""TFRecord files without TensorFlow: length and payload, each with a masked CRC-32C.

A record is `uint64 length, uint32 crc(length), payload, uint32 crc(payload)`, little endian (TensorFlow, lib/io/record_writer).
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from vla.datasets.formats.readers.base import LIMIT, library
from vla.errors import UserError

_HEAD = struct.Struct("<QI")
_MASK = 0xA282EAD8


@functools.cache
def _google() -> Any:
    return library("google_crc32c", "reading TFRecords")


def masked_crc(data: bytes) -> int:
    """CRC-32C of the bytes, rotated and offset as TFRecord stores it."""
    crc = _google().value(data)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


class Broken(UserError):
    """From here on a file cannot be read: lengths say where the next record is."""


def scan(path: str | Path) -> Iterator[tuple[int, int]]:
    """(offset, length) of each payload of a file, without reading them.

    Raises:
        Broken: a damaged or impossible length, or the file ends within a record; what came before is whole.
    """
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
                raise Broken(f"the record claims {length} bytes", where, f"at most {LIMIT} are read")
            if offset + _HEAD.size + length + 4 > size:
                raise Broken("the file ends within the record", where, "copy the file again")
            yield offset + _HEAD.size, length
            offset += _HEAD.size + length + 4
            record += 1


def read(file: IO[bytes], offset: int, length: int, where: str) -> bytes:
    """One payload with the 4 bytes of its checksum behind it; UserError naming `where` if it is cut off or damaged."""
    data = os.pread(file.fileno(), length + 4, offset)
    if len(data) < length + 4:
        raise UserError("the file ends within the record", where, "copy the file again")
    # Goes on over the checksum itself: taking it off would copy the payload, which takes longer than parsing it.
    said = (int.from_bytes(data[length:], "little") - _MASK) & 0xFFFFFFFF
    if _google().extend((said >> 17 | said << 15) & 0xFFFFFFFF, data[length:]) != _google().value(data):
        raise UserError("the record has a wrong checksum", where, "copy the file again")
    return data
