"""Random access to tar shards: where every member lies, found once and kept beside the shard."""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
import os
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vla.datasets.remote import RemoteFolder
from vla.datasets.shards import PATTERN
from vla.errors import Unreadable, UserError

VERSION = 3
OPEN_FILES = 256
"""Shards that an index keeps open: of more than these, random access opens one for nearly every sample."""
FETCHED_OPEN = 16
"""The same of shards that were fetched."""
Columns = dict[str, np.ndarray]


class ShardIndex:
    """The samples of a folder of shards, in order, each read with `pread`.

    What was found of `shard-000000.tar` is kept in `shard-000000.idx` as long as the shard's size and time stay. Safe to hand to
    worker processes, forked or spawned: file descriptors are opened where they are used. `stamp` changes with the
    shards. A shard that is elsewhere is fetched when one of its samples is read, or when nothing else says how many there are.

    Args:
        folder: holds `shard-*.tar`, or says where they are.
        counts: for a folder that is elsewhere, its shards and how many samples each has; None where only the shard knows.

    Raises:
        UserError: there are no shards; one is cut off or damaged (names it and its last whole sample); a key occurs twice.
    """

    def __init__(self, folder: str | Path | RemoteFolder, counts: Mapping[str, int | None] | None = None):
        self.remote = folder if isinstance(folder, RemoteFolder) else None
        self.folder = folder.cache if isinstance(folder, RemoteFolder) else Path(folder)
        self._names = sorted(counts or {}) if self.remote else sorted(p.name for p in self.folder.glob(PATTERN))
        if not self._names:
            raise UserError("no shards (shard-*.tar)", str(self.folder), "give the folder that `vla collect` wrote")
        self._counts = dict(counts or {})
        self._tables: dict[int, Columns] = {}
        self._files: dict[int, Any] = {}
        if self.remote:
            self.stamp = _digest([VERSION, *self._counts.items()])
        else:
            stamps = [_stamp(self.folder / name) for name in self._names]
            self.stamp = _digest(list(zip(self._names, stamps, strict=True)))
            self._check_keys()

    def _check_keys(self) -> None:
        every = [key for shard in range(len(self._names)) for key in self._table(shard)["keys"].tolist()]
        if len(set(every)) < len(every):
            key, times = Counter(every).most_common(1)[0]
            raise UserError(
                f"the key {key.decode()!r} occurs {times} times", str(self.folder), "a data set's keys are its samples' names"
            )

    def __len__(self) -> int:
        return self.shards[-1]

    def __getstate__(self) -> dict:
        # What was fetched is read where it is.
        return {**self.__dict__, "_files": {}} | ({"_tables": {}} if self.remote else {})

    @property
    def keys(self) -> list[str]:
        """The samples' names, in order."""
        return [key.decode() for shard in range(len(self._names)) for key in self._table(shard)["keys"].tolist()]

    @functools.cached_property
    def shards(self) -> list[int]:
        """[S + 1] the first sample of each shard, and their number."""
        return list(itertools.accumulate(map(self.samples, range(len(self._names))), initial=0))

    @property
    def count(self) -> int:
        """The number of shards."""
        return len(self._names)

    def span(self, name: str) -> tuple[int, int]:
        """The first sample of a shard, and the first one after it; UserError where there is no such shard."""
        if name not in self._names:
            raise UserError("no such shard", str(self.folder / name), f"there are {self._names[0]} to {self._names[-1]}")
        shard = self._names.index(name)
        return self.shards[shard], self.shards[shard + 1]

    def samples(self, shard: int) -> int:
        """How many samples a shard has. What was found of a fetched shard outlives it."""
        count = self._counts.get(self._names[shard])
        if count is None:
            kept = (self.folder / self._names[shard]).with_suffix(".idx")
            table = (_read(kept) if self.remote else None) or self._table(shard)
            count = self._counts[self._names[shard]] = len(table["keys"])
        return count

    def where(self, i: int, member: str = "") -> str:
        """Names sample i (and one of its members) for a message: shard, key."""
        return self.where_at(*self._place(i), member)

    def where_at(self, shard: int, row: int, member: str = "") -> str:
        """As `where`, of a shard's sample."""
        key = self._table(shard)["keys"][row].decode()
        return f"{self.folder / self._names[shard]}, {key}{'.' if member else ''}{member}"

    def read(self, i: int, only: tuple[str, ...] = ()) -> dict[str, bytes]:
        """Members of sample i by extension; of those named in `only`, if any are.

        Raises:
            Unreadable: the sample has no such member, or the shard cannot be read there.
        """
        return self.read_at(*self._place(i), only)

    def read_at(self, shard: int, row: int, only: tuple[str, ...] = ()) -> dict[str, bytes]:
        """As `read`, of a shard's sample."""
        table = self._table(shard)
        if row >= len(table["keys"]):
            raise UserError(
                f"it has {len(table['keys'])} samples, not the {self.samples(shard)} it had",
                str(self.folder / self._names[shard]),
            )
        part = slice(table["first"][row], table["first"][row + 1])
        names, sizes, offsets = table["extensions"].tolist(), table["size"][part].tolist(), table["offset"][part].tolist()
        places = {names[e]: (o, o + size) for e, o, size in zip(table["extension"][part].tolist(), offsets, sizes, strict=True)}
        missing = [m for m in only if m not in places]
        if missing:
            raise Unreadable(f"it has no {', '.join(missing)}, only {', '.join(places)}", self.where_at(shard, row))
        # A sample's members stand one after the other: one call reads them all. Of a few only, what is between them may be large.
        handle, content, start, found = self._open(shard), b"", 0, {}
        for member in only or places:
            first, last = places[member]
            try:
                if only:
                    start, content = first, os.pread(handle, last - first, first)
                elif not content:
                    start, content = first, os.pread(handle, offsets[-1] + sizes[-1] - first, first)
            except OSError as error:
                raise Unreadable(f"it cannot be read: {error.strerror}", self.where_at(shard, row, member)) from error
            found[member] = content[first - start : last - start]
            if len(found[member]) != last - first:
                raise Unreadable(
                    "the shard is shorter than when it was indexed", self.where_at(shard, row, member), "write it again"
                )
        return found

    def columns(self, name: str, build: Callable[[], Columns]) -> Columns:
        """What `build` finds in all samples, kept as `NAME.columns` beside the shards as long as none of them changes."""
        return _cached(self.folder / f"{name}.columns", self.stamp, build)

    def _place(self, i: int) -> tuple[int, int]:
        """The shard of sample i, and its place there."""
        shard = bisect.bisect_right(self.shards, i) - 1
        return shard, i - self.shards[shard]

    def _table(self, shard: int) -> Columns:
        table = self._tables.get(shard)
        if table is None:
            if self.remote and len(self._tables) >= FETCHED_OPEN:
                self._tables.pop(next(iter(self._tables)))
            table = self._tables[shard] = self._again(self._index, shard)
        return table

    def _index(self, shard: int) -> Columns:
        path = self._path(shard)
        # A fetched file's time says when it was last used.
        stamp = f"{VERSION} {path.stat().st_size}" if self.remote else _stamp(path)
        try:
            return _cached(path.with_suffix(".idx"), stamp, lambda: _scan(path))
        except UserError:
            if self.remote:
                path.unlink(missing_ok=True)
            raise

    def _again(self, what: Callable[[int], Any], shard: int) -> Any:
        """Does it once more where another process made room just now."""
        try:
            return what(shard)
        except FileNotFoundError:
            if not self.remote:
                raise
            return what(shard)

    def _path(self, shard: int) -> Path:
        name = self._names[shard]
        return self.remote.path(name) if self.remote else self.folder / name

    def _open(self, shard: int) -> int:
        file = self._files.get(shard)
        if file is None:
            # An open file takes room even where it was removed.
            if len(self._files) >= (FETCHED_OPEN if self.remote else OPEN_FILES):
                self._files.pop(next(iter(self._files))).close()
            file = self._files[shard] = self._again(lambda k: self._path(k).open("rb", buffering=0), shard)
        return file.fileno()


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{VERSION} {status.st_size} {status.st_mtime_ns}"


def _read(path: Path) -> Columns | None:
    """What was kept in a file; None where there is none, or it is not one of ours: the shards themselves say everything."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            return {name: kept[name] for name in kept.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _cached(path: Path, stamp: str, build: Callable[[], Columns]) -> Columns:
    """Arrays kept in a file under a stamp; built again where the file is missing, damaged or of another stamp."""
    kept = _read(path)
    if kept and str(kept.pop("stamp", "")) == stamp:
        return kept
    columns = build()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, stamp=np.array(stamp), **columns)  # type: ignore[arg-type]
        os.replace(temporary, path)
    except OSError:
        # A folder that cannot be written to is read without a cache.
        temporary.unlink(missing_ok=True)
    return columns


def _scan(path: Path) -> Columns:
    """Reads the headers of a tar file; consecutive members whose names are equal up to the first dot are one record."""
    records: list[tuple[str, list[tuple[str, int, int]]]] = []

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
                # tarfile keeps every header it has read.
                tar.members.clear()  # type: ignore[attr-defined]
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
    members = [member for _, found in records for member in found]
    extensions, extension = np.unique(np.array([m[0] for m in members], np.str_), return_inverse=True)
    return {
        "keys": np.array([key.encode() for key, _ in records], np.bytes_),
        "first": np.cumsum([0, *(len(found) for _, found in records)]),
        "extensions": extensions,
        "extension": extension.astype(np.int16),
        "offset": np.array([m[1] for m in members], np.int64),
        "size": np.array([m[2] for m in members], np.int64),
    }
