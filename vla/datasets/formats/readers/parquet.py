"""Reads Parquet files of a data set: whole small ones, and the rows of one episode of larger ones."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from vla.datasets.formats.readers.base import LIMIT, library
from vla.errors import UserError
from vla.files import why_not_data

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


def arrow() -> tuple[ModuleType, ModuleType]:
    """Returns pyarrow and pyarrow.parquet; UserError if they are not installed."""
    return library("pyarrow", "reading LeRobot data"), library("pyarrow.parquet", "reading LeRobot data")


class Parquet:
    """The Parquet files of a folder. The one that was read last stays open."""

    def __init__(self, root: Path):
        arrow()
        self.root = root
        self._open: _OpenFile | None = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": None}

    def whole(self, name: str) -> pa.Table:
        """Reads a small file; UserError if it is damaged."""
        _, pq = arrow()
        with _readable(str(self.root / name), self.root / name):
            file = pq.ParquetFile(self.root / name)
            _check_size(file, range(file.num_row_groups), str(self.root / name))
            return file.read()

    def names(self, name: str, where: str) -> list[str]:
        """Returns the names of a file's columns; UserError if the file is damaged."""
        with _readable(f"{where}, {name}", self.root / name):
            return self._opened(name).file.schema_arrow.names

    def rows(self, name: str, number: int, where: str, columns: list[str]) -> pa.Table:
        """Reads the columns of an episode's rows of a file; UserError if the file is damaged."""
        with _readable(f"{where}, {name}", self.root / name):
            opened = self._opened(name)
            groups, chosen = opened.place(number, f"{where}, {name}")
            try:
                table = opened.file.read_row_groups(groups, columns=columns)
            except arrow()[0].ArrowInvalid:
                if not opened.typed:
                    raise
                opened = self._open = _OpenFile(self.root / name, typed=False)
                table = opened.file.read_row_groups(groups, columns=columns)
            return table if chosen is None else table.take(chosen)

    def _opened(self, name: str) -> _OpenFile:
        path = self.root / name
        if self._open is None or self._open.path != path:
            self._open = _OpenFile(path)
        return self._open


class _OpenFile:
    """An open file, and the place of the episode that was read from it last.

    Args:
        path: of the file.
        typed: whether the types that pyarrow stored in it are used. Where a vector of fixed length is missing, pyarrow can read
            nothing of the row group, unless it takes the vectors for lists of any length.
    """

    def __init__(self, path: Path, typed: bool = True):
        pa, pq = arrow()
        self.path, self.typed = path, typed
        self.file: pq.ParquetFile = pq.ParquetFile(path if typed else pa.BufferReader(_untyped(path)))
        self._ranges = [_episodes(self.file, group) for group in range(self.file.num_row_groups)]
        self._place: tuple[int, list[int], np.ndarray | None] | None = None

    def place(self, number: int, where: str) -> tuple[list[int], np.ndarray | None]:
        """Returns the row groups that may contain an episode, and which of their rows are its; None: all of them."""
        if self._place is None or self._place[0] != number:
            groups = [group for group, (low, high) in enumerate(self._ranges) if low <= number <= high]
            _check_size(self.file, groups, where)
            rows = None
            if "episode_index" in self.file.schema_arrow.names:
                pc = library("pyarrow.compute", "reading LeRobot data")
                column = self.file.read_row_groups(groups, columns=["episode_index"])["episode_index"]
                rows = np.flatnonzero(pc.fill_null(pc.equal(column, number), False).to_numpy())
            self._place = number, groups, rows
        return self._place[1:]


def _untyped(path: Path) -> bytes:
    """Reads a file, with the types that pyarrow stored in it hidden from pyarrow."""
    if path.stat().st_size > LIMIT:
        raise OSError(f"a damaged file of more than {LIMIT} bytes")
    data = path.read_bytes()
    # The description at the end is followed by its length, in four bytes, and four bytes more.
    end = len(data) - int.from_bytes(data[-8:-4], "little") - 8
    return data[:end] + data[end:].replace(b"ARROW:schema", b"ARROW-schema")


@contextlib.contextmanager
def _readable(where: str, path: Path) -> Iterator[None]:
    """Turns errors of a damaged file, or of one that is no data, into UserErrors."""
    pa, _ = arrow()
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        why = why_not_data(path)
        fix = "" if why else "copy the file again"
        raise UserError(why or f"the file cannot be read: {error}", where, fix) from error


def as_array(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Converts a column of numbers or lists of numbers to [T] or [T, …]."""
    pa, _ = arrow()
    array = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if pa.types.is_fixed_size_list(array.type) and not pa.types.is_nested(array.type.value_type):
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)
    if pa.types.is_nested(array.type):
        values, kind = np.array(array.to_pylist()), array.type
        while hasattr(kind, "value_type"):
            kind = kind.value_type
        # Images in lists of lists of uint8 are no longer images as int64.
        return values.astype(str(kind)) if values.dtype.kind == "i" and pa.types.is_integer(kind) else values
    return array.to_numpy(zero_copy_only=False)


def _episodes(file: pq.ParquetFile, group: int) -> tuple[float, float]:
    """Returns the lowest and highest episode that a row group may contain, by its statistics."""
    meta = file.metadata.row_group(group)
    for index in range(meta.num_columns):
        column = meta.column(index)
        if column.path_in_schema == "episode_index" and column.statistics is not None and column.statistics.has_min_max:
            low, high = column.statistics.min, column.statistics.max
            return (low, high) if isinstance(low, int) else (-math.inf, math.inf)
    return -math.inf, math.inf


def _check_size(file: pq.ParquetFile, groups: Iterable[int], where: str) -> None:
    """Raises UserError if row groups are larger than a record may be."""
    size = sum(file.metadata.row_group(group).total_byte_size for group in groups)
    if not 0 <= size <= LIMIT:
        raise UserError(f"the file claims {size} bytes", where, f"at most {LIMIT} are read")
