"""What a file holds, whatever its name says: a pointer that Git LFS left, or something compressed as a whole."""

from __future__ import annotations

from pathlib import Path

POINTER = b"version https://git-lfs.github.com/spec/"
"""How the small text begins that `git clone` without Git LFS writes in place of a large file."""
COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\x00": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}
"""First bytes -> name of the compression, and the program that undoes it."""


def why_not_data(file: str | Path | bytes) -> str:
    """Why a file, or its first bytes, cannot be in any format that is read, with what to do; "" if nothing speaks against it."""
    try:
        head = file[: len(POINTER)] if isinstance(file, bytes) else _head(file)
    except OSError:
        # The reader says what is wrong.
        return ""
    if head == POINTER:
        return "it is a pointer of Git LFS, not the data: run `git lfs pull` where it was cloned"
    for start, (name, program) in COMPRESSED.items():
        if head.startswith(start):
            return f"it is compressed with {name}, and read only uncompressed: run `{program}` on it"
    return ""


def _head(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(len(POINTER))
