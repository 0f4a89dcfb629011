"""What all formats have in common: a reader lists a data set's records and reads one as plain arrays, texts and pictures."""

from __future__ import annotations

import abc
import dataclasses
import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from vla.errors import UserError

if TYPE_CHECKING:
    from vla.datasets.formats.conventions.source_card import SourceCard

LIMIT = 2 * 2**30
"""Bytes that one record may take in memory: a damaged or hostile header must not allocate more."""
Kind = Literal["robot", "questions"]


@dataclasses.dataclass(frozen=True)
class Ref:
    """One record of a data set, an episode or a picture, before it is read.

    Attributes:
        name: file and record, for messages; no two records share one.
        weight: its size in whatever the format knows without reading it (bytes or steps).
        place: what the reader needs to find it.
        damage: why it cannot be read at all; "" where nothing is known to be wrong.
    """

    name: str
    weight: int
    place: tuple[Any, ...] = ()
    damage: str = ""


@runtime_checkable
class Frames(Protocol):
    """T pictures of one camera: encoded (bytes) or uint8 [H, W, 3]; `rows` reads the asked ones, in ascending order."""

    def __len__(self) -> int: ...

    def rows(self, rows: Sequence[int]) -> Iterable[bytes | np.ndarray]: ...


@dataclasses.dataclass(frozen=True)
class Listed:
    """Frames that are in memory: a list of encoded pictures, or an array [T, H, W, 3]."""

    frames: Sequence[bytes] | np.ndarray

    def __len__(self) -> int:
        return len(self.frames)

    def rows(self, rows: Sequence[int]) -> Iterable[bytes | np.ndarray]:
        return (self.frames[row] for row in rows)


Raw = dict[str, Any]
"""A record as the format has it: name -> an array [T, …], T texts, T byte strings, one text, or pictures. Nested names are
joined with "/"."""


class Reader(abc.ABC):
    """A data set of some format. Making one reads no more than its description; it may be handed to other processes.

    Attributes:
        format: its name, as `vla data convert --format` takes it.
        kind: robot episodes, or pictures with questions.
    """

    format: str
    kind: Kind = "robot"

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @abc.abstractmethod
    def refs(self) -> list[Ref]:
        """All records in order; one that is known to be damaged or missing is listed with its damage."""

    @abc.abstractmethod
    def read(self, ref: Ref) -> Raw:
        """One record.

        Raises:
            UserError: it is damaged or incomplete; file, record and member are named.
        """

    @abc.abstractmethod
    def card(self) -> SourceCard:
        """What the format itself says of cameras, state, action and rate."""

    def splits(self) -> Mapping[str, set[str] | None]:
        """Names of the data set's own splits -> names of their records (None: all)."""
        return {}

    def about(self) -> dict[str, Any]:
        """For people: version, features and whatever else the description says."""
        return {}

    def text_of(self, ref: Ref) -> str:
        """Names a record for a message."""
        return ref.name


def inside(root: Path, name: str, where: str) -> Path:
    """A file named by a data set's own description; UserError if it lies outside of the data set's folder."""
    try:
        path, home = (root / name).resolve(), root.resolve()
        # Names that are too long are an error here, and nowhere else.
        path.exists()
    except (ValueError, OSError, RuntimeError) as error:
        raise UserError(f"{name!r} is no path: {error}", where, "copy the file again") from error
    # Hugging Face's cache holds links to files that lie two folders up.
    homes = (home, home.parent.parent / "blobs") if home.parent.name == "snapshots" else (home,)
    if not any(path.is_relative_to(each) for each in homes):
        raise UserError(f"the path {name!r} leaves the data set's folder", where, "do not trust this data set")
    return path


def library(name: str, what: str) -> Any:
    """A module of the `formats` extra; UserError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0].replace("_", "-")
        raise UserError(f"{what} needs the package {package}", "formats", "pip install 'vla[formats]'") from error
