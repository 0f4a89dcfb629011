"""The members of an episode's samples in tar files, and the columns that they make together."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from vla.datasets.formats.readers.base import LIMIT, Json
from vla.datasets.shards import decode_array
from vla.datasets.tar import Sample
from vla.errors import UserError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
ARRAYS_AND_TEXTS = {"npy": "npy", "txt": "text", "text": "text"}
"""Extension -> the name of the only member with it."""


def fetch(path: str, extent: tuple[int, int], where: str) -> bytes:
    """Reads a member's bytes, given its offset and size; UserError if they are not all there."""
    offset, size = extent
    if size > LIMIT:
        raise UserError(f"the member has {size} bytes", where, f"at most {LIMIT} are read")
    with open(path, "rb", buffering=0) as file:
        data = os.pread(file.fileno(), size, offset)
    if len(data) != size:
        raise UserError("the file ends within a member", where, "copy the file again")
    return data


@dataclasses.dataclass(frozen=True)
class TarFrames:
    """A camera's images of an episode's steps: the file, offset and size of each."""

    paths: tuple[str, ...]
    extents: tuple[tuple[int, int], ...]
    where: str

    def __len__(self) -> int:
        return len(self.extents)

    def rows(self, rows: Sequence[int]) -> Iterable[bytes]:
        return (fetch(self.paths[row], self.extents[row], self.where) for row in rows)


def keys_of(samples: list[Sample]) -> dict[str, str]:
    """Returns the names by which a card knows an episode's members, each with its member: without the extension, if that is
    not yet the name of another, of an image before others."""
    keys: dict[str, str] = {}
    members = dict.fromkeys(name for sample in samples for name in sample.members)
    for name in sorted(members, key=lambda name: name.rpartition(".")[2] not in IMAGE_EXTENSIONS):
        stem, _, ending = name.rpartition(".")
        if ending in (*IMAGE_EXTENSIONS, *ARRAYS_AND_TEXTS):
            key = stem or ("image" if ending in IMAGE_EXTENSIONS else ARRAYS_AND_TEXTS[ending])
            keys[name if key in keys else key] = name
    return keys


def member(name: str, samples: list[Sample], paths: tuple[str, ...], where: str) -> TarFrames | np.ndarray | list[str]:
    """Returns a member of each sample; UserError if a sample lacks it, or it is damaged."""
    ending = name.rpartition(".")[2]
    if ending in IMAGE_EXTENSIONS:
        return TarFrames(paths, tuple(_extents(name, samples, paths)), f"{where}, {name}")
    contents = contents_of(name, samples, paths, where)
    return _stacked(contents) if ending == "npy" else [text.decode("utf-8-sig", "replace") for text, _ in contents]


def _extents(name: str, samples: list[Sample], paths: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    for path, sample in zip(paths, samples, strict=True):
        if name not in sample.members:
            raise UserError(f"the episode's samples have different members: here there is no {name}", f"{path}, {sample.key}")
        yield sample.members[name]


def contents_of(name: str, samples: list[Sample], paths: tuple[str, ...], where: str) -> list[tuple[bytes, str]]:
    """Returns a member of each sample, and its place for messages."""
    extents = list(_extents(name, samples, paths))
    return [(fetch(p, e, where), f"{p}, {s.key}.{name}") for p, e, s in zip(paths, extents, samples, strict=True)]


def _stacked(data: list[tuple[bytes, str]]) -> np.ndarray:
    arrays = []
    for content, where in data:
        arrays.append(decode_array(content, where))
        if arrays[-1].shape != arrays[0].shape:
            raise UserError(f"the array has shape {arrays[-1].shape}, the first step's {arrays[0].shape}", where)
    return np.stack(arrays)


def column(values: list[Any]) -> np.ndarray | list[str] | None:
    """Joins one value per step: texts, numbers, or lists of numbers of one length; None for anything else."""
    if all(isinstance(v, str) for v in values):
        return values
    lengths = {len(v) if isinstance(v, list) and all(map(_is_number, v)) else -1 for v in values}
    if not all(map(_is_number, values)) and (len(lengths) > 1 or lengths == {-1}):
        return None
    return np.array(values) if all(isinstance(v, int | bool) for v in values) else np.array(values, np.float64)


def _is_number(value: Json) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 63)
