"""Writing tar files of samples with nothing but Python's own library: processes that convert data start fast and stay small.

webdataset's writer, which all else is written with, imports torch.
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
"""The checksum of a header is that of all its bytes, spaces where it will stand itself."""


class TarWriter:
    """Appends members to an open file, in the ustar form; time, user and group are fixed, so equal members give equal bytes.

    The bytes are those of `webdataset.TarWriter(file, user="vla", group="vla", mtime=0)`.
    """

    def __init__(self, file: IO[bytes]):
        self.file, self.size = file, 0

    def write(self, key: str, members: Iterable[tuple[str, bytes]]) -> None:
        """One sample: its members (extension, content), as KEY.EXTENSION; UserError for a name that is too long."""
        parts = []
        for extension, content in members:
            parts += [header(f"{key}.{extension}", len(content)), content, bytes(-len(content) % BLOCK)]
        data = b"".join(parts)
        self.file.write(data)
        self.size += len(data)

    def close(self) -> None:
        """Writes the end mark; the file stays open."""
        self.size += 2 * BLOCK
        self.file.write(bytes(2 * BLOCK + -self.size % RECORD))


def header(name: str, size: int) -> bytes:
    """A member's 512 bytes (POSIX.1-1988 ustar)."""
    path = name.encode()
    if len(path) > 100 or size >= 8**11:
        raise UserError(
            f"the member {name!r} of {size} bytes does not fit in a tar file", "tar", "shorten names, or split the data"
        )
    length = b"%011o\0" % size
    return b"".join((path.ljust(100, b"\0"), _BEFORE, length, _TIME, b"%06o\0 " % (_SUM + sum(path) + sum(length)), _AFTER))
