"""Reads HDF5 files: demonstrations of robosuite, robomimic and LIBERO (`data/demo_N`), or one episode per file, as ALOHA's."""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from vla.datasets.formats.conventions.source_card import CameraKey, Orientation, Part, SourceCard, vector_names
from vla.datasets.formats.readers.base import IMAGE_HEADS, LIMIT, Columns, Raw, Reader, Ref, library, matching, natural_order
from vla.datasets.formats.readers.frames import channels_first
from vla.errors import UserError
from vla.files import why_not_data

if TYPE_CHECKING:
    import h5py

DEMO = re.compile(r"^demo_?(\d+)$")
ACTIONS = ("actions", "action")
OBSERVATIONS = ("obs/", "observations/", "observation/")
INSTRUCTIONS = ("language_instruction", "instruction", "language_raw", "task")
CONVENTION = "macros_image_convention"
"""The attribute that says which row of the images comes first: robosuite's."""
BLOCK = 32
"""Number of images that are read at once."""
TEXTS = 1 << 20
"""Largest number of texts that are read."""


def _h5py() -> ModuleType:
    return library("h5py", "reading HDF5")


@contextlib.contextmanager
def _as_user_errors(where: str) -> Iterator[None]:
    """Turns the many kinds of errors that h5py raises for a damaged file into UserErrors at `where`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the file is damaged: {error}", where, "copy the file again") from error


class H5Frames:
    """Images of a file, uint8 [T, H, W, C] or [T, C, H, W], read block by block."""

    def __init__(self, reader: HDF5Reader, ref: Ref, name: str, shape: tuple[int, ...]):
        self.reader, self.ref, self.name, self.shape = reader, ref, name, shape

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, rows: Sequence[int]) -> Iterable[np.ndarray]:
        where = f"{self.ref.name}, {self.name}"
        with _as_user_errors(where):
            dataset = self.reader.dataset(self.ref, self.name)
        for start in range(0, len(rows), BLOCK):
            wanted = list(rows[start : start + BLOCK])
            # A range of rows is read far faster than a list of rows.
            block = _read(dataset, slice(wanted[0], wanted[-1] + 1), where)
            block = np.moveaxis(block, 1, -1) if channels_first(self.shape) else block
            yield from (block[row - wanted[0]] for row in wanted)


class HDF5Reader(Reader):
    """Reader of one file, or of all *.hdf5 and *.h5 files of a folder.

    Raises:
        UserError: h5py is not installed, or there is no such file.
    """

    format = "hdf5"

    def __init__(self, path: str | Path):
        super().__init__(path)
        self.files = matching(self.path, "*.hdf5", "*.h5") if self.path.is_dir() else [self.path]
        if not self.files:
            raise UserError("no *.hdf5 or *.h5 files", str(path))
        _h5py()
        self._open: dict[str, h5py.File] = {}

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": {}}

    def open(self, path: str) -> h5py.File:
        """Opens a file, or returns it if it is still open; UserError if it is damaged."""
        if path not in self._open:
            for file in self._open.values():
                file.close()
            self._open.clear()
            if why := why_not_data(path):
                raise UserError(why, path)
            try:
                self._open[path] = _h5py().File(path, "r")
            except BlockingIOError as error:
                fix = "close that program, or set HDF5_USE_FILE_LOCKING=FALSE if it only reads"
                raise UserError(f"another program has locked the file: {error}", path, fix) from error
            except OSError as error:
                raise UserError(f"the file cannot be opened: {error}", path, "copy the file again") from error
        return self._open[path]

    def data_group(self, path: str) -> h5py.Group:
        """Returns the group `data` of a file; raises h5py's errors if there is none."""
        return cast("h5py.Group", self.open(path)["data"])

    def episode(self, ref: Ref) -> h5py.Group:
        """Returns the group that holds an episode: `data/demo_N`, or the whole file."""
        path, name = ref.location
        if name and _is_external(self.data_group(path), name):
            raise UserError(f"{name} is a link out of the file", ref.name, "do not trust this data set")
        return cast("h5py.Group", self.data_group(path)[name]) if name else self.open(path)

    def _top(self, ref: Ref) -> h5py.Group:
        """Returns the group whose attributes describe all episodes of a file."""
        path, name = ref.location
        return self.data_group(path) if name else self.open(path)

    def refs(self) -> list[Ref]:
        refs = []
        for path in self.files:
            try:
                demos = self._demos(str(path))
            except UserError as error:
                refs.append(Ref(str(path), 0, (), f"{error.what}; none of its episodes can be read"))
                continue
            refs += [Ref(f"{path}, {name}" if name else str(path), length, (str(path), name)) for name, length in demos]
            with contextlib.suppress(Exception):
                count = int(self.data_group(str(path)).attrs.get("num_demos", len(demos)))
                if count != len(demos):
                    damage = f"the file has {len(demos)} demonstrations, its num_demos says {count}"
                    refs.append(Ref(f"{path}, end", 0, (), damage))
        if all(ref.location[1:] in ((), ("",)) for ref in refs):
            # Files that are episodes are numbered, and often not to the same width.
            refs.sort(key=lambda ref: natural_order(ref.name))
        return refs

    def _demos(self, path: str) -> list[tuple[str, int]]:
        """Lists the demonstrations below `data` in the order of their numbers, with their lengths; "" is the whole file."""
        import h5py

        with _as_user_errors(path):
            file = self.open(path)
            data = file.get("data")
            names = map(str, data) if isinstance(data, h5py.Group) else ()
            numbers = sorted((int(m[1]), name) for name in names if (m := DEMO.match(name)))
            if numbers:
                return [(name, self._steps(Ref(path, 0, (path, name)))) for _, name in numbers]
            if any(name in file for name in ACTIONS):
                return [("", self._steps(Ref(path, 0, (path, ""))))]
            has = f"it has {', '.join(list(map(str, file))[:10]) or 'nothing'}"
        raise UserError(f"the file has neither data/demo_N (robomimic) nor action (one episode per file, as ALOHA): {has}", path)

    def _steps(self, ref: Ref) -> int:
        """Returns the number of an episode's actions, 0 if it has none: reading it reports what is wrong."""
        with contextlib.suppress(Exception):
            name = next(name for name in names_below(self.episode(ref)) if name.partition("/")[0] in ACTIONS)
            return self.dataset(ref, name).shape[0]
        return 0

    def read(self, ref: Ref) -> Raw:
        raw, text = Columns(), ""
        with _as_user_errors(ref.name):
            episode = self.episode(ref)
            for name in names_below(episode):
                raw[name] = functools.partial(self._value, ref, name)
            count = episode.attrs.get("num_samples")
            text = instruction(self._top(ref).attrs, Path(ref.location[0]))
        if isinstance(count, int | np.integer) and (actions := self._steps(ref)) and actions != count:
            raise UserError(f"it has {actions} actions, its num_samples says {count}", ref.name, "copy the file again")
        if text:
            raw["language_instruction"] = text
        return raw

    def dataset(self, ref: Ref, name: str) -> h5py.Dataset:
        """Returns a dataset of an episode; UserError if it lies outside of the file, or is none."""
        import h5py

        where, episode = f"{ref.name}, {name}", self.episode(ref)
        if _is_external(episode, name):
            raise UserError("it is a link out of the file", where, "do not trust this data set")
        node = episode.get(name)
        if not isinstance(node, h5py.Dataset):
            raise UserError("there is no such dataset" if node is None else "it is no dataset", where)
        if node.external or node.is_virtual or node.file.filename != episode.file.filename:
            raise UserError("it lies outside of the file", where, "do not trust this data set")
        return node

    def _value(self, ref: Ref, name: str) -> np.ndarray | list[str] | list[bytes] | str | H5Frames:
        where = f"{ref.name}, {name}"
        with _as_user_errors(where):
            dataset = self.dataset(ref, name)
            if dataset.shape is None:
                raise UserError("it is empty", where, "name another key in the card")
            if dataset.ndim == 4 and dataset.dtype == np.uint8:
                if math.prod(dataset.shape[1:]) > LIMIT // BLOCK:
                    fix = f"at most {LIMIT // BLOCK} bytes are read"
                    raise UserError(f"the images are too large: {dataset.shape[1:]}", where, fix)
                return H5Frames(self, ref, name, dataset.shape)
            if dataset.dtype.kind not in "fiub" and cast(int, dataset.size) > TEXTS:
                raise UserError(f"it claims {dataset.size} texts", where, f"at most {TEXTS} are read")
            values = _read(dataset, slice(None), where)
            return values if dataset.dtype.kind in "fiub" else _bytes_or_texts(dataset, values, where)

    def splits(self) -> Mapping[str, set[str] | None]:
        names = collections.defaultdict(set)
        for path in self.files:
            # A file that cannot be read has no splits; `refs` lists it with its damage.
            with contextlib.suppress(Exception):
                masks = cast("h5py.Group | None", self.open(str(path)).get("mask"))
                for split, mask in masks.items() if masks else ():
                    entries = _read(cast("h5py.Dataset", mask), slice(None), str(path)).ravel()
                    demos = {e.decode() if isinstance(e, bytes) else str(e) for e in entries}
                    names[split] |= {f"{path}, {demo}" for demo in demos}
        return dict(names)

    def card(self) -> SourceCard:
        """Lists every camera and every vector observation; the shipped cards libero and robomimic say what they mean."""
        return self.of_first(self._card_of) or SourceCard()

    def _card_of(self, ref: Ref) -> SourceCard:
        with _as_user_errors(ref.name):
            top = self._top(ref)
            datasets = dict(self._readable(ref))
            seen = {k: d for k, d in datasets.items() if k.startswith(OBSERVATIONS)}
            images = [k for k, d in seen.items() if _has_images(d)]
            vectors = [k for k, d in seen.items() if k not in images and d.ndim in (1, 2) and d.dtype.kind in "fiu"]
            size = {k: math.prod(d.shape[1:]) for k, d in datasets.items() if d.ndim}
            action = [k for k in ACTIONS if k in size][:1] or [
                k for k, d in datasets.items() if k.startswith("action/") and d.ndim in (1, 2) and d.dtype.kind in "fiu"
            ]
            return SourceCard(
                title=self.path.stem,
                cameras={_camera_name(k): CameraKey(k, self._orientation(top)) for k in images},
                action=tuple(Part(k, vector_names(k.rpartition("/")[2] if "/" in k else "a", size[k])) for k in action),
                state=tuple(Part(k, vector_names(k.partition("/")[2], size[k])) for k in sorted(vectors)),
                # A task may also be a number.
                instruction=tuple(
                    k for k in INSTRUCTIONS if k == INSTRUCTIONS[0] or (k in datasets and datasets[k].dtype.kind in "OS")
                ),
                control_hz=self._rate(top) or 20.0,
                conventions={"source": "read from the file alone: gripper, rotation and frame are not said there"},
                stated=self._stated(top),
            )

    def _readable(self, ref: Ref) -> Iterator[tuple[str, h5py.Dataset]]:
        """Yields the names and the datasets of an episode that can be read at all."""
        for name in names_below(self.episode(ref)):
            # What cannot be read has no type or shape either. Its error is that of its use.
            with contextlib.suppress(Exception):
                dataset = self.dataset(ref, name)
                if dataset.shape is not None and dataset.dtype is not None:
                    yield name, dataset

    def _orientation(self, top: h5py.Group) -> Orientation:
        """Returns the orientation that the file states, else upright: robomimic flips its images when it extracts them."""
        return "raw_opengl" if top.attrs.get(CONVENTION) == "opengl" else "upright"

    def _stated(self, top: h5py.Group) -> dict[str, str]:
        stated = {"control_hz": "control_freq in env_args"} if self._rate(top) else {}
        return stated | ({"orientation": CONVENTION} if CONVENTION in top.attrs else {})

    def _rate(self, top: h5py.Group) -> float:
        """Returns the control rate that the file states, else 0."""
        try:
            return float(json.loads(cast(str, top.attrs["env_args"]))["env_kwargs"]["control_freq"])
        except (KeyError, ValueError, TypeError):
            return 0.0

    def about(self) -> dict[str, Any]:
        return {"files": len(self.files), **(self.of_first(self._facts) or {})}

    def _facts(self, ref: Ref) -> dict[str, Any]:
        with _as_user_errors(ref.name):
            top, attributes = self._top(ref), {}
            for key in top.attrs:
                # Attributes may be of types that NumPy does not have.
                with contextlib.suppress(OSError, TypeError, ValueError):
                    attributes[key] = str(top.attrs[key])[:200]
            features = {k: f"{d.dtype} {list(d.shape)}" for k, d in self._readable(ref)}
        return {"attributes": attributes, "features": features}


def _camera_name(key: str) -> str:
    return key.partition("/")[2].removeprefix("images/").removesuffix("_image").removesuffix("_rgb")


def instruction(attributes: Mapping[str, Any], path: Path) -> str:
    """Returns the task that a file states in LIBERO's problem_info, else ""."""
    try:
        text = json.loads(attributes["problem_info"])["language_instruction"]
    except (LookupError, ValueError, TypeError):
        return ""
    # Some files have a list of words, or quotation marks around the text.
    return " ".join(text).strip() if isinstance(text, list) else str(text).strip().strip('"')


def _is_external(group: h5py.Group, name: str) -> bool:
    """Whether a name is a link to another file."""
    import h5py

    return isinstance(group.get(name, getlink=True), h5py.ExternalLink)


def names_below(group: h5py.Group, depth: int = 0) -> Iterator[str]:
    """Yields the names of everything below a group that is no group, without following links out of the file."""
    import h5py

    for key in map(str, group):
        is_group = False
        # A link to nowhere, or a damaged object, has no class. Its error is that of its use.
        with contextlib.suppress(Exception):
            is_group = not _is_external(group, key) and group.get(key, getclass=True) is h5py.Group
        if is_group and depth < 8:
            yield from (f"{key}/{name}" for name in names_below(cast("h5py.Group", group[key]), depth + 1))
        else:
            yield key


def _has_images(dataset: h5py.Dataset) -> bool:
    """Whether a dataset holds images: pixels, or encoded ones."""
    if dataset.dtype == np.uint8 and dataset.ndim == 4:
        return True
    if (
        not dataset.ndim
        or not len(dataset)
        or not (dataset.dtype.kind in "OS" or (dataset.dtype == np.uint8 and dataset.ndim == 2))
    ):
        return False
    first = _read(dataset, slice(1), "")[0]
    return (first if isinstance(first, bytes) else np.asarray(first).tobytes()).startswith(IMAGE_HEADS)


def _bytes_or_texts(dataset: h5py.Dataset, values: np.ndarray, where: str) -> list[str] | list[bytes] | str:
    """Returns encoded images as byte strings, and texts as texts; one text is that of the whole episode."""
    import h5py

    if h5py.check_vlen_dtype(dataset.dtype) == np.uint8:
        return [value.tobytes() for value in values.ravel()]
    if h5py.check_string_dtype(dataset.dtype) is None:
        raise UserError(f"it holds values of type {dataset.dtype}", where, "name another key in the card")
    content = [value if isinstance(value, bytes) else str(value).encode() for value in values.ravel().tolist()]
    if any(value.startswith(IMAGE_HEADS) for value in content):
        return content
    texts = [value.decode("utf-8", "replace") for value in content]
    return texts[0] if len(texts) == 1 else texts


def _read(dataset: h5py.Dataset, rows: slice, where: str) -> np.ndarray:
    """Reads rows of a dataset; UserError if they are damaged or larger than a record may be."""
    first, end, _ = rows.indices(dataset.shape[0]) if dataset.ndim else (0, 1, 1)
    if (end - first) * math.prod(dataset.shape[1:]) * dataset.dtype.itemsize > LIMIT:
        raise UserError(f"the dataset claims {dataset.shape} values", where, f"at most {LIMIT} bytes are read")
    if math.prod(dataset.chunks or (0,)) * dataset.dtype.itemsize > LIMIT:
        raise UserError(f"the dataset is stored in chunks of {dataset.chunks} values", where, f"at most {LIMIT} bytes are read")
    try:
        return np.asarray(dataset[rows] if dataset.ndim else dataset[()])
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"the dataset cannot be read: {error}", where, "copy the file again") from error
