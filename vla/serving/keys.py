"""API keys: a file of `name key` lines, read again whenever it changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from pathlib import Path

from vla.errors import UserError

log = logging.getLogger("vla.serving")
SHORTEST = 16
LINE = re.compile(r"(\S+)\s+(\S+)")


class Keys:
    """The keys of a file. Editing the file adds and revokes keys; a file that is gone lets nobody in.

    Args:
        path: one key a line: a name for the logs, blanks, the key of at least 16 characters; "#" begins a comment.

    Raises:
        UserError: the file is not there or has no key.
    """

    def __init__(self, path: str | Path):
        self._path = Path(path)
        self._read_at: tuple[int, int, int] | None = None
        self._keys: dict[str, bytes] = {}
        if not self._path.is_file():
            raise UserError("no key file", str(path), 'write one line for each client: a name and a key, e.g. "arm1 SECRET"')
        self._refresh()
        if not self._keys:
            raise UserError(
                "no key in the file", str(path), f"one line for each client: a name and {SHORTEST} characters or more"
            )
        if self._path.stat().st_mode & 0o007:
            log.warning("others on this machine can read %s: chmod 600 it (640 for a group)", path)

    def name(self, key: str) -> str | None:
        """Whose key this is; None for a wrong one. Takes as long for any key: every one is compared, whole."""
        self._refresh()
        given, found = _digest(key), None
        for name, held in self._keys.items():
            if hmac.compare_digest(given, held):
                found = name
        return found

    def holds(self, name: str) -> bool:
        """Whether this name still has a key: connections that are open are asked again."""
        self._refresh()
        return name in self._keys

    def _refresh(self) -> None:
        try:
            stat = self._path.stat()
            at = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if at == self._read_at:
                return
            lines = self._path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            if self._keys:
                log.error("the key file cannot be read, nobody is let in: %s", error)
            self._keys, self._read_at = {}, None
            return
        self._keys, self._read_at = {}, at
        for number, line in enumerate(lines, 1):
            words = line.split("#")[0].strip()
            match = LINE.fullmatch(words)
            if match and len(match[2]) >= SHORTEST:
                self._keys[match[1]] = _digest(match[2])
            elif words:
                log.error("%s, line %d is no `name key` of at least %d characters: ignored", self._path, number, SHORTEST)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
