"""Remote data sets: shards are fetched when they are read, into a local cache of bounded size."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from filelock import FileLock

from vla import hub
from vla.errors import UserError

HOME = "~/.cache/vla/shards"
NAME = "shard-{:06d}.tar"
HUB = "hf://datasets/"
ATTEMPTS = 6
PAUSE = 1.0
"""Seconds before the second attempt; doubled before each further one."""


def is_remote(folder: str | Path) -> bool:
    """Whether a data set's folder is an address: https://…, s3://…, gs://…, hf://…, pipe:COMMAND."""
    return "://" in str(folder) or str(folder).startswith("pipe:")


class RemoteFolder:
    """The files of a remote folder, each fetched at its first use.

    http and https are read directly, `pipe:ssh host cat /data/{}` as webdataset does, all else through fsspec (s3:// needs s3fs,
    gs:// gcsfs). Of hf://datasets/… one commit is read, the one that the address means at the first use. A failed transfer is
    tried six times over half a minute, unless the server says that the file does not exist. A file appears in the cache when it
    is complete. The least recently used shards are evicted when the cache exceeds its limit. Several processes may share a cache.

    Args:
        url: address of the folder; {} in it is replaced by the file name. Or a list of one address per shard, in the order of
            `shard-000000.tar`, `shard-000001.tar` …
        cache: local folder; "" is a folder for this address under ~/.cache/vla/shards.
        limit: bytes that shards may occupy there.
    """

    def __init__(self, url: str | list[str], cache: str | Path = "", limit: int = 20 * 2**30):
        self.limit = limit
        self.shards = {} if isinstance(url, str) else {NAME.format(number): each for number, each in enumerate(url)}
        self._given, self._cache = url, cache
        self._claimed = False

    @functools.cached_property
    def url(self) -> str:
        """The address, on the hub with its commit; "" if there is one per shard."""
        return hub.pinned(self._given) if isinstance(self._given, str) else ""

    @functools.cached_property
    def _identity(self) -> str:
        return hashlib.sha256((self.url or str(self._given)).encode()).hexdigest()

    @functools.cached_property
    def cache(self) -> Path:
        """The local folder."""
        return Path(self._cache) if self._cache else Path(HOME).expanduser() / self._identity[:16]

    def path(self, name: str, fresh: bool = False) -> Path:
        """The local file, fetched if it is missing. `fresh` fetches it again if the server answers.

        Raises:
            UserError: it cannot be fetched; the address is named.
        """
        path = self.cache / name
        self._claim()
        if not fresh and _touch(path):
            return path
        # One process fetches while the others wait.
        with FileLock(self.cache / f".{name}.lock"):
            if fresh or not _touch(path):
                self._fetch(name, path)
        return path

    def _claim(self) -> None:
        """Reserves the cache folder for the files of this address."""
        if self._claimed:
            return
        owner_file = self.cache / "source"
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            with FileLock(self.cache / ".source.lock"):
                owner = owner_file.read_text() if owner_file.is_file() else ""
                if not owner:
                    owner_file.write_text(self._identity)
        except OSError as error:
            raise UserError(f"cannot be used: {error.strerror}", str(self.cache), "set `fetched` to another folder") from error
        if owner not in ("", self._identity):
            raise UserError(
                "the folder holds files fetched from another address", str(self.cache), "set `fetched` to another folder"
            )
        self._claimed = True

    def _fetch(self, name: str, path: Path) -> None:
        # This process holds the lock, so unfinished files are those of killed processes.
        for abandoned in self.cache.glob(f".{name}.[0-9]*"):
            abandoned.unlink(missing_ok=True)
        unfinished = path.with_name(f".{name}.{os.getpid()}")
        address = self._address(name)
        for attempt in range(ATTEMPTS):
            try:
                _copy(address, unfinished)
                break
            except Exception as error:
                unfinished.unlink(missing_ok=True)
                if path.is_file():
                    return
                if isinstance(error, UserError) and not isinstance(error, hub.Unreachable):
                    raise
                # webdataset's error about a command begins with the whole call.
                why = getattr(error, "what", str(error)).rsplit("): ", 1)[-1].removesuffix(" {}")
                if attempt == ATTEMPTS - 1 or not _is_transient(error):
                    tried = f" ({attempt + 1} times)" if attempt else ""
                    raise UserError(f"cannot be read{tried}: {why}", address, "check the address and the connection") from error
                pause = PAUSE * 2**attempt
                print(f"{address}: {why}; trying again in {pause:g} s", file=sys.stderr, flush=True)
                time.sleep(pause)
        if name.endswith(".tar"):
            self._make_room(unfinished.stat().st_size)
        os.replace(unfinished, path)

    def _address(self, name: str) -> str:
        if name in self.shards:
            return self.shards[name]
        return self.url.replace("{}", name) if "{}" in self.url else f"{self.url.rstrip('/')}/{name}"

    def _make_room(self, size: int) -> None:
        """Evicts the least recently used shards until one of `size` bytes fits."""
        shards = []
        for path in self.cache.glob("*.tar"):
            # Another process may remove it at the same time.
            with contextlib.suppress(OSError):
                status = path.stat()
                shards.append((status.st_mtime_ns, status.st_size, path))
        total = size + sum(shard_size for _, shard_size, _ in shards)
        for _, shard_size, path in sorted(shards):
            if total <= self.limit:
                break
            path.unlink(missing_ok=True)
            total -= shard_size


def _copy(address: str, target: Path) -> None:
    if address.startswith(HUB):
        hub.copy_file(address, target)
        return
    with _open(address) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 2**20)
        # urllib reports a dropped connection only by the bytes that are left.
        missing = getattr(source, "length", None)
        if missing:
            raise OSError(f"the connection broke off {missing} bytes before the end")


def _is_transient(error: Exception) -> bool:
    """Whether a retry may help: not if the server says that the file does not exist, or the address is invalid."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (408, 425, 429) or error.code >= 500
    return not isinstance(error, ValueError | ImportError | FileNotFoundError | PermissionError)


def _touch(path: Path) -> bool:
    """Marks a file as used now; False if it does not exist."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


@contextlib.contextmanager
def _open(address: str) -> Iterator[IO[bytes]]:
    if address.startswith(("http://", "https://")):
        with urllib.request.urlopen(address, timeout=60) as response:
            yield response
        return
    if not address.startswith("pipe:"):
        import fsspec

        with fsspec.open(address, "rb") as file:
            yield file  # type: ignore[misc]
        return
    from webdataset.gopen import gopen

    stream = cast(IO[bytes], gopen(address, "rb"))
    try:
        yield stream
    finally:
        # Raises if the command failed.
        stream.close()
