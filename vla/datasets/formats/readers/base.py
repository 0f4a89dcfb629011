"""The interface of readers: a reader lists a data set's records and reads each as arrays, texts and images."""

from __future__ import annotations

import abc
import dataclasses
import importlib
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np

from vla.errors import UserError

if TYPE_CHECKING:
    from vla.datasets.formats.conventions.source_card import SourceCard

LIMIT = 2 * 2**30
"""Most bytes that a record may take in memory, so that a damaged or hostile header cannot exhaust it."""
IMAGE_HEADS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
"""The first bytes of JPEGs and PNGs."""
TRIED = 20
"""Number of records among which one that can be read is looked for."""
T = TypeVar("T")
Kind = Literal["robot", "questions"]
Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]


@dataclasses.dataclass(frozen=True)
class Ref:
    """A record of a data set that has not been read yet: an episode, or an image with its questions.

    Attributes:
        name: file and record, for messages; unique in the data set. It decides which records are held out, so it must not change.
        weight: its size, in the unit that the format gives without reading it (bytes, steps or images).
        location: what the reader needs to find the record.
        damage: why it cannot be read; "" if nothing is known to be wrong.
    """

    name: str
    weight: int
    location: tuple[Any, ...] = ()
    damage: str = ""


@runtime_checkable
class Frames(Protocol):
    """T images of one camera, encoded (bytes) or uint8 [H, W, 3]; `rows` reads the given ones, which must ascend."""

    def __len__(self) -> int: ...

    def rows(self, rows: Sequence[int]) -> Iterable[bytes | np.ndarray]: ...


@dataclasses.dataclass(frozen=True)
class InMemoryFrames:
    """Frames in memory: a list of encoded images, or an array [T, H, W, 3]."""

    frames: Sequence[bytes] | np.ndarray

    def __len__(self) -> int:
        return len(self.frames)

    def rows(self, rows: Sequence[int]) -> Iterable[bytes | np.ndarray]:
        return (self.frames[row] for row in rows)


@dataclasses.dataclass(frozen=True)
class Field:
    """What a data set holds under a name.

    Attributes:
        kind: images, numbers, texts, or something else.
        width: how many numbers each step has; 0 if that is not known.
        dtype: type of the numbers.
    """

    kind: Literal["images", "numbers", "texts", "other"]
    width: int = 0
    dtype: str = ""


Raw = dict[str, Any]
"""A record as it is stored: name -> an array [T, …], T texts, T byte strings, one text, or images (`Frames`). Nested names are
joined with "/"."""


class Columns(dict[str, Any]):
    """A record whose values are read when they are first used. A function in the place of a value is called for it, and raises
    UserError if the value cannot be read, so that a value that nobody uses is neither read nor checked."""

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if callable(value):
            value = self[name] = value()
        return value

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401 - it is what computes the value


class Reader(abc.ABC):
    """Base class of readers. Creating one reads only the data set's description. Readers can be pickled.

    Attributes:
        format: name of the format for `vla data convert --format`.
        kind: robot episodes, or images with questions.
    """

    format: str
    kind: Kind = "robot"

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @abc.abstractmethod
    def refs(self) -> list[Ref]:
        """Lists all records in order; those known to be damaged or missing are included, with their damage."""

    def refs_for(self, card: SourceCard) -> list[Ref]:
        """As `refs`, but a record is not damaged by the lack of values that the card does not name."""
        return self.refs()

    @abc.abstractmethod
    def read(self, ref: Ref) -> Raw:
        """Reads a record, or prepares to (`Columns`).

        Raises:
            UserError: the record is damaged or incomplete; names file, record and member.
        """

    def of_first(self, use: Callable[[Ref], T]) -> T | None:
        """Returns what a function makes of the first record that can be read, None without records; UserError if none can."""
        problem = None
        for ref in itertools.islice((ref for ref in self.refs() if not ref.damage), TRIED):
            try:
                return use(ref)
            except UserError as error:
                problem = problem or error
        if problem:
            raise problem
        return None

    @abc.abstractmethod
    def card(self) -> SourceCard:
        """Returns a source card from what the format itself states: cameras, state, action and rate."""

    def fields(self) -> dict[str, Field]:
        """Returns what the data set holds, by the names that a card uses; read from the first record that can be read."""
        from vla.datasets.formats.readers.frames import fields_of

        return self.of_first(lambda ref: fields_of(self.read(ref))) or {}

    def splits(self) -> Mapping[str, set[str] | None]:
        """Returns the data set's own splits: name -> names of its records (None: all of them)."""
        return {}

    def about(self) -> dict[str, Any]:
        """Returns facts for display: version, features and the like."""
        return {}


def inside(root: Path, name: str, where: str) -> Path:
    """Resolves a path that a data set's description names; UserError if it lies outside the data set's folder."""
    try:
        path, home = (root / name).resolve(), root.resolve()
        # Raises OSError if a name is too long.
        path.exists()
    except (ValueError, OSError, RuntimeError) as error:
        raise UserError(f"{name!r} is not a path: {error}", where, "copy the file again") from error
    # Hugging Face's cache contains links to files two folders up.
    homes = (home, home.parent.parent / "blobs") if home.parent.name == "snapshots" else (home,)
    if not any(path.is_relative_to(each) for each in homes):
        raise UserError(f"the path {name!r} leaves the data set's folder", where, "do not trust this data set")
    return path


def matching(folder: Path, *patterns: str) -> list[Path]:
    """The files of a folder that match a pattern, sorted, without `._NAME`, where macOS keeps the attributes of NAME."""
    return sorted(path for pattern in patterns for path in folder.glob(pattern) if not path.name.startswith("._"))


def library(name: str, what: str) -> ModuleType:
    """Imports a module of the `formats` extra; UserError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0].replace("_", "-")
        raise UserError(f"{what} needs the package {package}", "formats", "pip install 'vla[formats]'") from error


def natural_order(name: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key that orders names by the numbers within them."""
    words = re.split(r"([0-9]{1,18})", name)
    return tuple((0, int(word), "") if index % 2 else (1, 0, word) for index, word in enumerate(words))
