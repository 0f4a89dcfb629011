"""The folder of a demo: one process at a time works in it."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

from vla.demo.stages import STAGES
from vla.errors import UserError

LOCK = ".lock"


@contextlib.contextmanager
def held(folder: Path, fresh: bool = False) -> Iterator[int]:
    """Makes the folder and holds it against a second process while the block runs.

    Args:
        fresh: empty it first.

    Yields:
        the lock's file descriptor: it is held for as long as any process has it open, so a child that gets it and outlives a
        killed parent still holds the folder.

    Raises:
        UserError: another process holds it, or what should be emptied is no demo.
    """
    if fresh and folder.is_dir() and _content(folder) and not (folder / STAGES).is_file():
        raise UserError("the folder holds something else than a demo", str(folder), "choose another")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                "another `vla demo`, or the training of one that was killed, is at work in this folder",
                str(folder),
                "wait until it has ended, end it, or choose another --out",
            ) from None
        for path in _content(folder) if fresh else ():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        yield lock.fileno()


def _content(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name != LOCK]
