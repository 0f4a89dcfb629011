"""Random access to tar shards: where every member lies, found once and kept beside the shard."""

from __future__ import annotations

import bisect
import json
import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

from vla.datasets.shards import PATTERN
from vla.errors import UserError

VERSION = 1
# Key, and extension, offset and size of each member.
Record = tuple[str, list[tuple[str, int, int]]]


class ShardIndex:
    """The samples of a folder of shards, in order, each read with `pread`.

    What was found of `shard-000000.tar` is kept in `shard-000000.idx` as long as the shard's size and time stay. Safe to hand to
    worker processes, forked or spawned: file descriptors are opened where they are used.

    Args:
        folder: holds `shard-*.tar`.

    Raises:
        UserError: there are no shards; one is cut off or damaged (names it and its last whole sample); a key occurs twice.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._paths = sorted(self.folder.glob(PATTERN))
        if not self._paths:
            raise UserError("no shards (shard-*.tar)", str(self.folder), "give the folder that `vla collect` wrote")
        self._starts: list[int] = []
        self._records: list[Record] = []
        for path in self._paths:
            self._starts.append(len(self._records))
            self._records += _load_or_scan(path)
        self.keys: list[str] = [record[0] for record in self._records]
        key, times = Counter(self.keys).most_common(1)[0] if self.keys else ("", 0)
        if times > 1:
            raise UserError(f"the key {key!r} occurs {times} times", str(self.folder), "a data set's keys are its samples' names")
        self._files: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_files": {}}

    def where(self, i: int, member: str = "") -> str:
        """Names sample i (and one of its members) for a message: shard, key."""
        return f"{self._paths[self._shard(i)]}, {self.keys[i]}{'.' if member else ''}{member}"

    def read(self, i: int, only: tuple[str, ...] = ()) -> dict[str, bytes]:
        """Members of sample i by extension; of those named in `only`, if any are.

        Raises:
            UserError: the sample has no such member, or the shard is shorter than when it was indexed.
        """
        members = {extension: (offset, size) for extension, offset, size in self._records[i][1]}
        missing = [m for m in only if m not in members]
        if missing:
            raise UserError(f"it has no {', '.join(missing)}, only {', '.join(members)}", self.where(i))
        shard = self._shard(i)
        if shard not in self._files:
            self._files[shard] = self._paths[shard].open("rb", buffering=0)
        handle = self._files[shard].fileno()
        found = {}
        for extension in only or members:
            offset, size = members[extension]
            found[extension] = os.pread(handle, size, offset)
            if len(found[extension]) != size:
                raise UserError("the shard is shorter than when it was indexed", self.where(i, extension), "write it again")
        return found

    def _shard(self, i: int) -> int:
        return bisect.bisect_right(self._starts, i) - 1


def _load_or_scan(path: Path) -> list[Record]:
    status = path.stat()
    stamp = {"version": VERSION, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    cache = path.with_suffix(".idx")
    try:
        kept = json.loads(cache.read_bytes())
        if {name: kept[name] for name in stamp} == stamp:
            return kept["records"]
    except (OSError, ValueError, KeyError, TypeError):
        # No cache, or not one of ours: the shard itself says everything.
        pass
    records = _scan(path)
    temporary = cache.with_name(f"{cache.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps({**stamp, "records": records}, separators=(",", ":")))
        os.replace(temporary, cache)
    except OSError:
        # A folder that cannot be written to is read without a cache.
        temporary.unlink(missing_ok=True)
    return records


def _scan(path: Path) -> list[Record]:
    """Reads the headers of a tar file; consecutive members whose names are equal up to the first dot are one record."""
    records: list[Record] = []

    def damaged(why: str) -> UserError:
        # A cut between two members of a sample leaves a sample with fewer extensions than the first one has.
        full = {m[0] for m in records[0][1]} if records else set()
        whole = next((r[0] for r in reversed(records) if {m[0] for m in r[1]} >= full), None)
        return UserError(
            f"the shard is cut off or damaged ({why}); its last whole sample is {whole if whole else 'none'}",
            str(path),
            "copy or write it again",
        )

    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            size = path.stat().st_size
            for entry in tar:
                if not entry.isfile():
                    continue
                if entry.offset_data + entry.size > size:
                    raise damaged("the last member is incomplete")
                folder, _, name = entry.name.rpartition("/")
                key, dot, extension = name.partition(".")
                if not dot:
                    raise UserError(f"member {entry.name!r} has no extension", str(path), "a member is named KEY.EXTENSION")
                key = f"{folder}/{key}" if folder else key
                if not records or records[-1][0] != key:
                    records.append((key, []))
                if any(extension == m[0] for m in records[-1][1]):
                    raise UserError(f"member {entry.name!r} occurs twice", str(path))
                records[-1][1].append((extension, entry.offset_data, entry.size))
            # tarfile ends quietly at a header it cannot read; a whole archive ends with a block of zeros.
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise damaged("the end mark is missing")
    except tarfile.TarError as error:
        raise damaged(str(error)) from error
    return records
