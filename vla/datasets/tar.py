"""Writes tar files of samples with the standard library alone, so that processes that convert data start fast and stay small.

webdataset's writer, which `ShardWriter` uses, imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO

from vla.errors import UserError

BLOCK, RECORD = 512, 10240
_BEFORE = b"0000444\0" + b"0000000\0" * 2
_TIME = b"00000000000\0"
_AFTER = (b"0" + bytes(100) + b"ustar\x0000" + b"vla".ljust(32, b"\0") * 2).ljust(BLOCK - 156, b"\0")
_SUM = sum(_BEFORE + _TIME + b" " * 8 + _AFTER)
"""Sum of a header's fixed bytes. The checksum is the sum of all bytes, with spaces in place of the checksum itself."""


class TarWriter:
    """Appends samples to an open file in the ustar format. Time, user and group are fixed, so equal members give equal bytes.

    The bytes are those of `webdataset.TarWriter(file, user="vla", group="vla", mtime=0)`.
    """

    def __init__(self, file: IO[bytes]):
        self.file, self.size = file, 0

    def write(self, key: str, members: Iterable[tuple[str, bytes]]) -> None:
        """Appends a sample: its members (extension, content) as KEY.EXTENSION; UserError if one does not fit in a tar file."""
        parts = []
        for extension, content in members:
            parts += [header(f"{key}.{extension}", len(content)), content, bytes(-len(content) % BLOCK)]
        data = b"".join(parts)
        self.file.write(data)
        self.size += len(data)

    def close(self) -> None:
        """Writes the end mark. The file stays open."""
        self.size += 2 * BLOCK
        self.file.write(bytes(2 * BLOCK + -self.size % RECORD))


def header(name: str, size: int) -> bytes:
    """The header of a member, 512 bytes (POSIX.1-1988 ustar)."""
    path = name.encode()
    if len(path) > 100 or size >= 8**11:
        raise UserError(
            f"the member {name!r} of {size} bytes does not fit in a tar file", "tar", "shorten names, or split the data"
        )
    length = b"%011o\0" % size
    return b"".join((path.ljust(100, b"\0"), _BEFORE, length, _TIME, b"%06o\0 " % (_SUM + sum(path) + sum(length)), _AFTER))
