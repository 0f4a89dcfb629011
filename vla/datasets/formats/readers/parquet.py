"""Reads Parquet files of a data set: whole small ones, and the rows of one episode of larger ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

import numpy as np

from vla.datasets.formats.readers.base import LIMIT, library
from vla.errors import UserError

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
        self._file: tuple[str, pq.ParquetFile | None] = ("", None)
        self._typed = True

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_file": ("", None)}

    def whole(self, name: str) -> pa.Table:
        """Reads a small file; UserError if it is damaged."""
        _, pq = arrow()
        with _readable(str(self.root / name)):
            file = pq.ParquetFile(self.root / name)
            _check_size(file, range(file.num_row_groups), str(self.root / name))
            return file.read()

    def names(self, name: str, where: str) -> list[str]:
        """Returns the names of a file's columns; UserError if the file is damaged."""
        with _readable(f"{where}, {name}"):
            return self._opened(name).schema_arrow.names

    def rows(self, name: str, number: int, where: str, columns: list[str]) -> pa.Table:
        """Reads the columns of an episode's rows of a file; UserError if the file is damaged."""
        with _readable(f"{where}, {name}"):
            file = self._opened(name)
            groups = [g for g in range(file.num_row_groups) if _may_contain(file, g, number)]
            _check_size(file, groups, f"{where}, {name}")
            try:
                table = file.read_row_groups(groups, columns=columns)
            except arrow()[0].ArrowInvalid:
                if not self._typed:
                    raise
                table = self._untyped(name).read_row_groups(groups, columns=columns)
            if "episode_index" in table.column_names:
                pc = library("pyarrow.compute", "reading LeRobot data")
                table = table.filter(pc.equal(table["episode_index"], number))
            return table

    def _untyped(self, name: str) -> pq.ParquetFile:
        """Opens a file without the types that pyarrow stored in it. Where a vector of fixed length is missing, pyarrow can read
        nothing of the row group, unless it takes the vectors for lists of any length."""
        pa, pq = arrow()
        path = self.root / name
        if path.stat().st_size > LIMIT:
            raise OSError(f"a damaged file of more than {LIMIT} bytes")
        data = path.read_bytes()
        # The description at the end is followed by its length, in four bytes, and four bytes more.
        end = len(data) - int.from_bytes(data[-8:-4], "little") - 8
        data = data[:end] + data[end:].replace(b"ARROW:schema", b"ARROW-schema")
        self._file, self._typed = (str(path), pq.ParquetFile(pa.BufferReader(data))), False
        return cast("pq.ParquetFile", self._file[1])

    def _opened(self, name: str) -> pq.ParquetFile:
        _, pq = arrow()
        path = str(self.root / name)
        if self._file[0] != path:
            self._file, self._typed = (path, pq.ParquetFile(path)), True
        return cast("pq.ParquetFile", self._file[1])


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    """Turns errors of a damaged file into UserErrors."""
    pa, _ = arrow()
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise UserError(f"the file cannot be read: {error}", where, "copy the file again") from error


def as_array(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Converts a column of numbers or lists of numbers to [T] or [T, …]."""
    pa, _ = arrow()
    array = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if pa.types.is_fixed_size_list(array.type) and not pa.types.is_nested(array.type.value_type):
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)
    if pa.types.is_nested(array.type):
        return np.array(array.to_pylist())
    return array.to_numpy(zero_copy_only=False)


def _may_contain(file: pq.ParquetFile, group: int, number: int) -> bool:
    """Whether a row group may contain rows of an episode, judged by its statistics."""
    meta = file.metadata.row_group(group)
    for index in range(meta.num_columns):
        column = meta.column(index)
        if column.path_in_schema == "episode_index" and column.statistics is not None and column.statistics.has_min_max:
            low, high = column.statistics.min, column.statistics.max
            return not isinstance(low, int) or low <= number <= high
    return True


def _check_size(file: pq.ParquetFile, groups: Iterable[int], where: str) -> None:
    """Raises UserError if row groups are larger than a record may be."""
    size = sum(file.metadata.row_group(group).total_byte_size for group in groups)
    if not 0 <= size <= LIMIT:
        raise UserError(f"the file claims {size} bytes", where, f"at most {LIMIT} are read")
