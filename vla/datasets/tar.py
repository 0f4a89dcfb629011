"""Reads and writes tar files of samples with the standard library alone, so that converting processes start fast and stay small.

webdataset's writer, which `ShardWriter` uses, imports torch.
"""

from __future__ import annotations

import dataclasses
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from vla.errors import UserError
from vla.files import why_not_data

BLOCK, RECORD = 512, 10240
_BEFORE = b"0000444\0" + b"0000000\0" * 2
_TIME = b"00000000000\0"
_AFTER = (b"0" + bytes(100) + b"ustar\x0000" + b"vla".ljust(32, b"\0") * 2).ljust(BLOCK - 156, b"\0")
_SUM = sum(_BEFORE + _TIME + b" " * 8 + _AFTER)
"""Sum of a header's fixed bytes. The checksum is the sum of all bytes, with spaces in place of the checksum itself."""


@dataclasses.dataclass
class Sample:
    """A sample of a tar file: consecutive members with one key.

    Attributes:
        key: the members' names up to the first dot, with their folder.
        members: extension -> offset and size in bytes.
        twice: the extension that two members have, in any case of letters; "" if none. It is not known which of them is meant.
    """

    key: str = ""
    members: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    twice: str = ""

    @property
    def fault(self) -> str:
        """Why the sample cannot be used; "" if nothing is wrong with its members' names."""
        return f"the member {self.key}.{self.twice} occurs twice" if self.twice else ""


class CutOff(UserError):
    """The rest of a tar file cannot be read.

    Attributes:
        sample: the sample at which it ends, perhaps incomplete.
    """

    def __init__(self, what: str, where: str = "", fix: str = "copy the file again", sample: Sample | None = None):
        super().__init__(what, where, fix)
        self.sample = sample or Sample()


def tar_samples(path: Path) -> Iterator[Sample]:
    """Yields the samples of a tar file.

    Raises:
        CutOff: the file is damaged or ends too early; the samples before are complete.
    """
    if why := why_not_data(path):
        raise CutOff(why, str(path), "")
    sample, extensions = Sample(), set[str]()
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            size = path.stat().st_size
            for entry in tar:
                # tarfile would keep every header in memory.
                tar.members.clear()  # type: ignore[attr-defined]
                name = divided(entry.name)
                if not entry.isfile() or name is None:
                    continue
                key, extension = name
                if key != sample.key:
                    if sample.members:
                        yield sample
                    sample, extensions = Sample(key), set()
                if entry.offset_data + entry.size > size:
                    raise CutOff("the file ends within a member", f"{path}, {key}", sample=sample)
                if extension.lower() in extensions:
                    sample.twice = extension
                extensions.add(extension.lower())
                sample.members[extension] = (entry.offset_data, entry.size)
            # tarfile stops silently at a header that it cannot read. A whole archive ends with a block of zeros.
            file.seek(tar.offset)
            if file.read(BLOCK) != bytes(BLOCK):
                raise CutOff("the file is cut off: its end marker is missing", f"{path}, {sample.key}", sample=sample)
    except (tarfile.TarError, OverflowError, ValueError) as error:
        what = f"the file is damaged or not a tar file: {error}"
        raise CutOff(what, f"{path}, {sample.key}", sample=sample) from error
    if sample.members:
        yield sample


def divided(name: str) -> tuple[str, str] | None:
    """The key and the extension of a member's name, divided at the first dot; None if it belongs to no sample.

    That is a name without a dot, or a hidden file: macOS writes a file's attributes as `._NAME` before it.
    """
    folder, _, file = name.rpartition("/")
    key, dot, extension = file.partition(".")
    return (f"{folder}/{key}" if folder else key, extension) if key and dot else None


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
