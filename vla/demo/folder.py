"""A folder in which one process at a time works, of a demo or of a cell of a study."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

from vla.demo.stages import STAGES
from vla.errors import UserError
from vla.folders import check_writable

LOCK = ".lock"


class Busy(UserError):
    """Another process works in the folder."""


@contextlib.contextmanager
def locked(folder: Path, fresh: bool = False, command: str = "vla demo") -> Iterator[int]:
    """Creates the folder and locks it while the block runs.

    Args:
        fresh: whether to empty the folder first.
        command: what works there, for the error.

    Yields:
        the lock's file descriptor. The lock lasts while any process has it open, so a child that inherits it keeps the folder
        locked even if its parent is killed.

    Raises:
        Busy: another process has the lock.
        UserError: nothing can be written there, or the folder to be emptied is not a demo's.
    """
    check_writable(folder)
    if fresh and folder.is_dir() and _content(folder) and not (folder / STAGES).is_file():
        raise UserError("the folder holds something other than a demo", str(folder), "choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(
                f"another `{command}`, or the training of a killed one, is running in this folder",
                str(folder),
                "wait until it ends, stop it, or choose another --out",
            ) from None
        for path in _content(folder) if fresh else ():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        yield lock.fileno()


def _content(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name != LOCK]
