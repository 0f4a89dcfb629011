"""Whether files can be written into a folder, asked before the work whose result it is to hold."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from vla.errors import UserError


def check_writable(folder: str | Path, option: str = "--out") -> None:
    """Checks that a folder takes files, or could be made and would. It leaves no trace. Addresses (s3://…) are not checked.

    Args:
        folder: the folder.
        option: the setting that names it, for the error.

    Raises:
        UserError: nothing can be written there, or "" is given.
    """
    if not str(folder):
        raise UserError("no folder is named", option, "give a folder")
    if "://" in str(folder):
        return
    path = Path(folder).absolute()
    nearest = path
    try:
        for nearest in (path, *path.parents):
            with contextlib.suppress(FileNotFoundError):
                nearest.lstat()
                break
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise UserError(f"nothing can be written there: {error.strerror}", str(folder), f"choose another {option}") from None


def check_writable_file(path: str | Path, option: str = "--out") -> None:
    """Checks that a file can be written, as `check_writable` does for its folder.

    Raises:
        UserError: nothing can be written there, or a folder is there.
    """
    if Path(path).is_dir():
        raise UserError("a folder is there", str(path), f"give {option} the name of a file")
    check_writable(Path(path).parent, option)
