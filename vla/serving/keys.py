"""API keys: a file with a name and a key per line, read again whenever it changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from pathlib import Path

from vla.errors import UserError

log = logging.getLogger("vla.serving")
MIN_LENGTH = 16
LINE = re.compile(r"(\S+)\s+(\S+)")


class Keys:
    """The keys of a file. Editing the file adds and revokes keys; without the file, nobody is admitted.

    Args:
        path: each line holds a name for the logs, blanks, and a key of at least 16 characters; "#" starts a comment.

    Raises:
        UserError: the file does not exist or has no key.
    """

    def __init__(self, path: str | Path):
        self._path = Path(path)
        self._version: tuple[int, int, int] | None = None
        self._keys: dict[str, bytes] = {}
        if not self._path.is_file():
            raise UserError("no key file", str(path), 'write one line per client: a name and a key, e.g. "arm1 SECRET"')
        self._refresh()
        if not self._keys:
            raise UserError(
                "no key in the file",
                str(path),
                f"write one line per client: a name and a key of at least {MIN_LENGTH} characters",
            )
        if self._path.stat().st_mode & 0o007:
            log.warning("other users of this machine can read %s: chmod 600 it (640 for a group)", path)

    def name(self, key: str) -> str | None:
        """Returns the name of a key; None for an unknown one. It compares all keys in full, so its duration tells nothing."""
        self._refresh()
        digest, match = _digest(key), None
        for name, key_digest in self._keys.items():
            if hmac.compare_digest(digest, key_digest):
                match = name
        return match

    def holds(self, name: str) -> bool:
        """Whether this name still has a key; open connections check it at each request."""
        self._refresh()
        return name in self._keys

    def _refresh(self) -> None:
        try:
            stat = self._path.stat()
            version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if version == self._version:
                return
            lines = self._path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            if self._keys:
                log.error("the key file cannot be read, nobody is admitted: %s", error)
            self._keys, self._version = {}, None
            return
        self._keys, self._version = {}, version
        for number, line in enumerate(lines, 1):
            words = line.split("#")[0].strip()
            match = LINE.fullmatch(words)
            if match and len(match[2]) >= MIN_LENGTH:
                self._keys[match[1]] = _digest(match[2])
            elif words:
                log.error(
                    "%s, line %d is ignored: it is not a name and a key of at least %d characters", self._path, number, MIN_LENGTH
                )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
