"""Random access to tar shards: an index file beside each shard says where every member is."""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from io import FileIO
from pathlib import Path
from typing import TypeVar

import numpy as np

from vla.datasets.remote import RemoteFolder
from vla.datasets.shards import PATTERN
from vla.datasets.tar import CutOff, Sample, tar_samples
from vla.errors import Unreadable, UserError
from vla.files import why_not_data

VERSION = 5
OPEN_FILES = 256
"""Local shards that an index keeps open. With more shards than this, random access opens a file for nearly every sample."""
FETCHED_OPEN = 16
"""Fetched shards that an index keeps open."""
Columns = dict[str, np.ndarray]
T = TypeVar("T")


class ShardIndex:
    """The samples of a folder of shards, in order. Each is read with `pread`.

    The index of `shard-000000.tar` is cached in `shard-000000.idx` and rebuilt when the shard's size or modification time
    changes. A ShardIndex can be sent to worker processes, forked or spawned: each opens its own file descriptors. `stamp`
    changes with the shards. A remote shard is fetched when one of its samples is read, or when its sample count is unknown.

    Args:
        folder: local folder that holds `shard-*.tar`, or a remote one.
        counts: shard name -> number of samples, for a remote folder; None where the count is unknown until it is fetched.

    Raises:
        UserError: there are no shards; a shard is truncated or damaged (it and its last whole sample are named); a key occurs
            twice.
    """

    def __init__(self, folder: str | Path | RemoteFolder, counts: Mapping[str, int | None] | None = None):
        self.remote = folder if isinstance(folder, RemoteFolder) else None
        self.folder = folder.cache if isinstance(folder, RemoteFolder) else Path(folder)
        self._names = sorted(counts or {}) if self.remote else sorted(p.name for p in self.folder.glob(PATTERN))
        if not self._names:
            raise UserError("no shards (shard-*.tar)", str(self.folder), "give the folder that `vla collect` wrote")
        self._counts = dict(counts or {})
        self._tables: dict[int, Columns] = {}
        self._files: dict[int, FileIO] = {}
        if self.remote:
            self.stamp = _digest([VERSION, *self._counts.items()])
        else:
            stamps = [_stamp(self.folder / name) for name in self._names]
            self.stamp = _digest(list(zip(self._names, stamps, strict=True)))
            self._check_keys()

    def _check_keys(self) -> None:
        keys = [key for shard in range(len(self._names)) for key in self._table(shard)["keys"].tolist()]
        if len(set(keys)) < len(keys):
            key, times = Counter(keys).most_common(1)[0]
            raise UserError(
                f"the key {key.decode()!r} occurs {times} times",
                str(self.folder),
                "give every sample of a data set its own key, and write its members one after the other",
            )

    def __len__(self) -> int:
        return self.shards[-1]

    def __getstate__(self) -> dict:
        # Tables of fetched shards are reread from their index files.
        return {**self.__dict__, "_files": {}} | ({"_tables": {}} if self.remote else {})

    @property
    def keys(self) -> list[str]:
        """The keys of all samples, in order."""
        return [key.decode() for shard in range(len(self._names)) for key in self._table(shard)["keys"].tolist()]

    @functools.cached_property
    def shards(self) -> list[int]:
        """[S + 1] the number of the first sample of each of S shards, and the total."""
        return list(itertools.accumulate(map(self.samples, range(len(self._names))), initial=0))

    @property
    def count(self) -> int:
        """The number of shards."""
        return len(self._names)

    def span(self, name: str) -> tuple[int, int]:
        """The numbers of a shard's first sample and of the first one after it; UserError if there is no such shard."""
        if name not in self._names:
            raise UserError("no such shard", str(self.folder / name), f"the shards are {self._names[0]} to {self._names[-1]}")
        shard = self._names.index(name)
        return self.shards[shard], self.shards[shard + 1]

    def samples(self, shard: int) -> int:
        """The number of samples of a shard. The index of a fetched shard stays when the shard is evicted."""
        count = self._counts.get(self._names[shard])
        if count is None:
            cached = (self.folder / self._names[shard]).with_suffix(".idx")
            table = (_load(cached) if self.remote else None) or self._table(shard)
            count = self._counts[self._names[shard]] = len(table["keys"])
        return count

    def where(self, i: int, member: str = "") -> str:
        """Names sample i, or one of its members, for a message: "SHARD, KEY.MEMBER"."""
        return self.where_at(*self._locate(i), member)

    def where_at(self, shard: int, row: int, member: str = "") -> str:
        """As `where`, for the sample in a row of a shard."""
        key = self._table(shard)["keys"][row].decode()
        return f"{self.folder / self._names[shard]}, {key}{'.' if member else ''}{member}"

    def read(self, i: int, only: tuple[str, ...] = ()) -> dict[str, bytes]:
        """The members of sample i by extension: all, or those named in `only`.

        Raises:
            Unreadable: the sample lacks a member, or the shard cannot be read.
        """
        return self.read_at(*self._locate(i), only)

    def read_at(self, shard: int, row: int, only: tuple[str, ...] = ()) -> dict[str, bytes]:
        """As `read`, for the sample in a row of a shard."""
        table = self._table(shard)
        if row >= len(table["keys"]):
            raise UserError(
                f"it has {len(table['keys'])} samples, expected {self.samples(shard)}",
                str(self.folder / self._names[shard]),
            )
        part = slice(table["first"][row], table["first"][row + 1])
        names, sizes, offsets = table["extensions"].tolist(), table["size"][part].tolist(), table["offset"][part].tolist()
        spans = {names[e]: (o, o + size) for e, o, size in zip(table["extension"][part].tolist(), offsets, sizes, strict=True)}
        missing = [m for m in only if m not in spans]
        if missing:
            elsewhere = "; its other members are elsewhere in the shard" * bool((table["keys"] == table["keys"][row]).sum() > 1)
            raise Unreadable(f"it has no {', '.join(missing)}, only {', '.join(spans)}{elsewhere}", self.where_at(shard, row))
        # The members of a sample are adjacent, so one call reads all. If only some are wanted, those between may be large.
        handle, content, start, members = self._open(shard), b"", 0, {}
        for member in only or spans:
            first, last = spans[member]
            try:
                if only:
                    start, content = first, os.pread(handle, last - first, first)
                elif not content:
                    start, content = first, os.pread(handle, offsets[-1] + sizes[-1] - first, first)
            except OSError as error:
                raise Unreadable(f"it cannot be read: {error.strerror}", self.where_at(shard, row, member)) from error
            members[member] = content[first - start : last - start]
            if len(members[member]) != last - first:
                raise Unreadable(
                    "the shard is shorter than when it was indexed", self.where_at(shard, row, member), "write it again"
                )
        return members

    def columns(self, name: str, build: Callable[[], Columns]) -> Columns:
        """The arrays that `build` reads from all samples, cached as `NAME.columns` beside the shards until a shard changes."""
        return _cached(self.folder / f"{name}.columns", self.stamp, build)

    def _locate(self, i: int) -> tuple[int, int]:
        """The shard of sample i, and its row there."""
        shard = bisect.bisect_right(self.shards, i) - 1
        return shard, i - self.shards[shard]

    def _table(self, shard: int) -> Columns:
        table = self._tables.get(shard)
        if table is None:
            if self.remote and len(self._tables) >= FETCHED_OPEN:
                self._tables.pop(next(iter(self._tables)))
            table = self._tables[shard] = self._retried(self._index, shard)
        return table

    def _index(self, shard: int) -> Columns:
        path = self._path(shard)
        # The modification time of a fetched file is the time of its last use.
        stamp = f"{VERSION} {path.stat().st_size}" if self.remote else _stamp(path)
        try:
            return _cached(path.with_suffix(".idx"), stamp, lambda: _scan(path))
        except UserError:
            if self.remote:
                path.unlink(missing_ok=True)
            raise

    def _retried(self, action: Callable[[int], T], shard: int) -> T:
        """Retries the action once if another process has just evicted the fetched shard."""
        try:
            return action(shard)
        except FileNotFoundError:
            if not self.remote:
                raise
            return action(shard)

    def _path(self, shard: int) -> Path:
        name = self._names[shard]
        return self.remote.path(name) if self.remote else self.folder / name

    def _open(self, shard: int) -> int:
        file = self._files.get(shard)
        if file is None:
            # A deleted file occupies disk space as long as it is open.
            if len(self._files) >= (FETCHED_OPEN if self.remote else OPEN_FILES):
                self._files.pop(next(iter(self._files))).close()
            file = self._files[shard] = self._retried(lambda k: self._path(k).open("rb", buffering=0), shard)
        return file.fileno()


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{VERSION} {status.st_size} {status.st_mtime_ns}"


def _load(path: Path) -> Columns | None:
    """The arrays of a cache file; None if it is missing or invalid, since it can be rebuilt from the shards."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _cached(path: Path, stamp: str, build: Callable[[], Columns]) -> Columns:
    """The arrays of a cache file; rebuilt if the file is missing, damaged or has another stamp."""
    cached = _load(path)
    if cached and str(cached.pop("stamp", "")) == stamp:
        return cached
    columns = build()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, stamp=np.array(stamp), **columns)  # type: ignore[arg-type]
        os.replace(temporary, path)
    except OSError:
        # A read-only folder is used without a cache.
        temporary.unlink(missing_ok=True)
    return columns


def _scan(path: Path) -> Columns:
    """Reads the headers of a tar file.

    Raises:
        UserError: the file is cut off or damaged, or a sample has the same member twice.
    """
    if why := why_not_data(path):
        raise UserError(why, str(path))
    samples: list[Sample] = []
    try:
        for sample in tar_samples(path):
            if sample.fault:
                raise UserError(sample.fault, str(path), "write every member once")
            samples.append(sample)
    except CutOff as error:
        # A file truncated between two members of a sample ends with a sample that has fewer extensions than the first.
        samples.append(error.sample)
        whole = next((s.key for s in reversed(samples) if s.members and s.members.keys() >= samples[0].members.keys()), "none")
        raise UserError(
            f"the shard is truncated or damaged ({error.what}); its last whole sample is {whole}",
            str(path),
            "copy or write it again",
        ) from error
    members = [(name, *extent) for sample in samples for name, extent in sample.members.items()]
    extensions, extension = np.unique(np.array([m[0] for m in members], np.str_), return_inverse=True)
    return {
        "keys": np.array([sample.key.encode() for sample in samples], np.bytes_),
        "first": np.cumsum([0, *(len(sample.members) for sample in samples)]),
        "extensions": extensions,
        "extension": extension.astype(np.int16),
        "offset": np.array([m[1] for m in members], np.int64),
        "size": np.array([m[2] for m in members], np.int64),
    }
