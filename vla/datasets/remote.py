"""Data sets that are elsewhere: shards are fetched when they are read and kept in a local folder of bounded size."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from vla.errors import UserError

HOME = "~/.cache/vla/shards"
NAME = "shard-{:06d}.tar"
ATTEMPTS = 6
PAUSE = 1.0
"""Seconds before the second attempt; doubled before each further one."""


def is_remote(folder: str | Path) -> bool:
    """Whether a data set's folder is an address: https://…, s3://…, gs://…, pipe:COMMAND."""
    return "://" in str(folder) or str(folder).startswith("pipe:")


class RemoteFolder:
    """The files of a folder elsewhere, each fetched at its first use.

    http and https are read directly, `pipe:ssh host cat /data/{}` the way webdataset does it, everything else through fsspec (s3://
    needs s3fs, gs:// gcsfs, hf:// huggingface_hub). What fails is tried six times, over half a minute, unless the other side says
    that there is no such file. A file is there whole or not at all; of the shards the longest unused ones are removed when they
    are more than the limit. Several processes may share a cache.

    Args:
        url: the folder's address; with {} in it, that is where a file's name goes. Or one address per shard: `shard-000000.tar`
            is then the first.
        cache: local folder; "" is a folder of this address's own under ~/.cache/vla/shards.
        limit: bytes that shards may take there.
    """

    def __init__(self, url: str | list[str], cache: str | Path = "", limit: int = 20 * 2**30):
        self.limit = limit
        self.url = url if isinstance(url, str) else ""
        self.shards = {} if isinstance(url, str) else {NAME.format(number): each for number, each in enumerate(url)}
        own = Path(HOME).expanduser() / hashlib.sha256(str(url).encode()).hexdigest()[:16]
        self.cache = Path(cache) if cache else own
        self._identity = hashlib.sha256(str(url).encode()).hexdigest()
        self._claimed = False

    def path(self, name: str, fresh: bool = False) -> Path:
        """The local file, fetched if it is not there (or anew with `fresh`, as long as the other side answers).

        Raises:
            UserError: it cannot be fetched, naming the address.
        """
        path = self.cache / name
        self._claim()
        if not fresh and _touch(path):
            return path
        # One process fetches, the others wait for it.
        with FileLock(self.cache / f".{name}.lock"):
            if fresh or not _touch(path):
                self._fetch(name, path)
        return path

    def _claim(self) -> None:
        """Sees to it that the folder holds the files of this address and of no other."""
        if self._claimed:
            return
        mark, ours = self.cache / "source", self._identity
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            with FileLock(self.cache / ".source.lock"):
                theirs = mark.read_text() if mark.is_file() else ""
                if not theirs:
                    mark.write_text(ours)
        except OSError as error:
            raise UserError(f"cannot be used: {error.strerror}", str(self.cache), "name another folder as `fetched`") from error
        if theirs not in ("", ours):
            raise UserError("the folder holds what was fetched from elsewhere", str(self.cache), "name another one as `fetched`")
        self._claimed = True

    def _fetch(self, name: str, path: Path) -> None:
        # The lock is ours: what is unfinished belongs to a process that was killed.
        for left in self.cache.glob(f".{name}.[0-9]*"):
            left.unlink(missing_ok=True)
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
                # webdataset's error of a command repeats how it was run before it comes to the point.
                why = str(error).rsplit("): ", 1)[-1].removesuffix(" {}")
                if attempt == ATTEMPTS - 1 or not _may_pass(error):
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
        kept = []
        for path in self.cache.glob("*.tar"):
            # Another process may remove it at the same time.
            with contextlib.suppress(OSError):
                status = path.stat()
                kept.append((status.st_mtime_ns, status.st_size, path))
        total = size + sum(taken for _, taken, _ in kept)
        for _, taken, path in sorted(kept):
            if total <= self.limit:
                break
            path.unlink(missing_ok=True)
            total -= taken


def _copy(address: str, target: Path) -> None:
    with _open(address) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 2**20)
        # A connection that breaks off ends quietly.
        wanted = getattr(source, "length", None)
        if wanted:
            raise OSError(f"it broke off {wanted} bytes before its end")


def _may_pass(error: Exception) -> bool:
    """Whether trying again may help: not where the other side answered that there is no such thing, or the address is none."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (408, 425, 429) or error.code >= 500
    return not isinstance(error, ValueError | ImportError | FileNotFoundError | PermissionError)


def _touch(path: Path) -> bool:
    """Marks a file as used now; False where there is none."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


@contextlib.contextmanager
def _open(address: str) -> Iterator[IO[bytes]]:
    if address.startswith(("http://", "https://")):
        with urllib.request.urlopen(address, timeout=60) as answer:
            yield answer
        return
    if not address.startswith("pipe:"):
        import fsspec

        with fsspec.open(address, "rb") as file:
            yield file  # type: ignore[misc]
        return
    from webdataset.gopen import gopen

    stream: Any = gopen(address, "rb")
    try:
        yield stream
    finally:
        # A command that fails says so when its end is reached.
        stream.close()
