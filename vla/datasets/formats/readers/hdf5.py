"""Reads demonstrations of robosuite, robomimic and LIBERO: `data/demo_N` of an HDF5 file, or of all files of a folder."""

from __future__ import annotations

import collections
import contextlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from vla.datasets.formats.conventions.source_card import CameraKey, Orientation, Part, SourceCard, vector_names
from vla.datasets.formats.readers.base import LIMIT, Raw, Reader, Ref, library, matching
from vla.errors import UserError

if TYPE_CHECKING:
    import h5py

DEMO = re.compile(r"^demo_?(\d+)$")
BLOCK = 32
"""Number of images that are read at once."""


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
    """Images of a file, uint8 [T, H, W, 3], read block by block."""

    def __init__(self, reader: HDF5Reader, path: str, name: str, length: int):
        self.reader, self.path, self.name, self.length = reader, path, name, length

    def __len__(self) -> int:
        return self.length

    def rows(self, rows: Sequence[int]) -> Iterable[np.ndarray]:
        where = f"{self.path}, {self.name}"
        with _as_user_errors(where):
            dataset = cast("h5py.Dataset", self.reader.open(self.path)[self.name])
        for start in range(0, len(rows), BLOCK):
            wanted = list(rows[start : start + BLOCK])
            # A range of rows is read far faster than a list of rows.
            block = _read(dataset, slice(wanted[0], wanted[-1] + 1), where)
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
            try:
                self._open[path] = _h5py().File(path, "r")
            except OSError as error:
                raise UserError(f"the file cannot be opened: {error}", path, "copy the file again") from error
        return self._open[path]

    def data_group(self, path: str) -> h5py.Group:
        """Returns the group `data` of a file; raises h5py's errors if there is none."""
        return cast("h5py.Group", self.open(path)["data"])

    def refs(self) -> list[Ref]:
        refs = []
        for path in self.files:
            try:
                demos = self._demos(str(path))
            except UserError as error:
                refs.append(Ref(str(path), 0, (), f"{error.what}; none of its episodes can be read"))
                continue
            refs += [Ref(f"{path}, {name}", length, (str(path), name)) for name, length in demos]
            with contextlib.suppress(Exception):
                count = int(self.data_group(str(path)).attrs.get("num_demos", len(demos)))
                if count != len(demos):
                    damage = f"the file has {len(demos)} demonstrations, its num_demos says {count}"
                    refs.append(Ref(f"{path}, end", 0, (), damage))
        return refs

    def _demos(self, path: str) -> list[tuple[str, int]]:
        """Lists the demonstrations below `data` in the order of their numbers, with their lengths."""
        with _as_user_errors(path):
            data = self.data_group(path)
            numbers = sorted((int(m[1]), name) for name in map(str, data) if (m := DEMO.match(name)))
            demos = []
            for _, name in numbers:
                # A demonstration without actions is listed all the same: reading it reports what is wrong.
                shape = ()
                if not _is_external(data, name):
                    shape = getattr(cast("h5py.Group", data[name]).get("actions"), "shape", ())
                demos.append((name, shape[0] if shape else 0))
        if not demos:
            raise UserError("the file has no data/demo_N", path)
        return demos

    def read(self, ref: Ref) -> Raw:
        path, name = ref.location
        raw: Raw = {}
        with _as_user_errors(ref.name):
            group = self.data_group(path)
            for key, dataset in _datasets(group, name, ref.name):
                raw[key] = self._value(path, f"data/{name}/{key}", dataset, ref.name)
            text = instruction(dict(group.attrs), Path(path))
            count = int(group[name].attrs.get("num_samples", -1))
        actions = raw.get("actions")
        if count >= 0 and isinstance(actions, np.ndarray) and count != len(np.atleast_1d(actions)):
            raise UserError(f"it has {len(actions)} actions, its num_samples says {count}", ref.name, "copy the file again")
        if text:
            raw["language_instruction"] = text
        return raw

    def _value(self, path: str, name: str, dataset: h5py.Dataset, where: str) -> np.ndarray | list[str] | H5Frames:
        if dataset.ndim == 4 and dataset.dtype == np.uint8:
            if math.prod(dataset.shape[1:]) > LIMIT // BLOCK:
                fix = f"at most {LIMIT // BLOCK} bytes are read"
                raise UserError(f"the images are too large: {dataset.shape[1:]}", f"{where}, {name}", fix)
            return H5Frames(self, path, name, dataset.shape[0])
        if dataset.dtype.kind not in "fiub":
            return [str(v) for v in np.atleast_1d(dataset.asstr()[()])] if _is_text(dataset) else []
        return _read(dataset, slice(None), f"{where}, {name}")

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
        ref = next((r for r in self.refs() if not r.damage), None)
        if ref is None:
            return SourceCard()
        with _as_user_errors(ref.name):
            return self._card_of(ref)

    def _card_of(self, ref: Ref) -> SourceCard:
        path, name = ref.location
        data = self.data_group(path)
        datasets = dict(_datasets(data, name, ref.name))
        images = {k: d for k, d in datasets.items() if d.ndim == 4 and d.dtype == np.uint8 and k.startswith("obs/")}
        vectors = {k: d for k, d in datasets.items() if k.startswith("obs/") and d.ndim in (1, 2) and d.dtype.kind in "fiu"}
        size = {k: math.prod(d.shape[1:]) for k, d in datasets.items() if d.ndim}
        cameras = {_camera_name(k): CameraKey(k, self._orientation(data)) for k in images}
        return SourceCard(
            title=self.path.stem,
            cameras=cameras,
            action=(Part("actions", vector_names("a", size["actions"])),) if "actions" in datasets else (),
            state=tuple(Part(k, vector_names(k.removeprefix("obs/"), size[k])) for k in sorted(vectors)),
            instruction=("language_instruction",),
            control_hz=self._rate(data),
            conventions={"source": "read from the file alone: gripper, rotation and frame are not said there"},
        )

    def _orientation(self, data: h5py.Group) -> Orientation:
        """Returns the orientation that the file states, else upright: robomimic flips its images when it extracts them."""
        return "raw_opengl" if data.attrs.get("macros_image_convention") == "opengl" else "upright"

    def _rate(self, data: h5py.Group) -> float:
        try:
            return float(json.loads(cast(str, data.attrs["env_args"]))["env_kwargs"]["control_freq"])
        except (KeyError, ValueError, TypeError):
            return 20.0

    def about(self) -> dict[str, Any]:
        ref = next((r for r in self.refs() if not r.damage), None)
        if ref is None:
            return {"files": len(self.files)}
        with _as_user_errors(ref.name):
            path, name = ref.location
            data = self.data_group(path)
            attributes = {k: str(v)[:200] for k, v in data.attrs.items()}
            features = {k: f"{d.dtype} {list(d.shape)}" for k, d in _datasets(data, name, ref.name)}
        return {"files": len(self.files), "attributes": attributes, "features": features}


def _camera_name(key: str) -> str:
    return key.removeprefix("obs/").removesuffix("_image").removesuffix("_rgb")


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


def _datasets(group: h5py.Group, name: str, where: str, depth: int = 0) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yields the names below group[name] and their datasets; UserError for links and data outside of the file."""
    import h5py

    if _is_external(group, name):
        raise UserError(f"{name} is a link out of the file", where, "do not trust this data set")
    node = cast("h5py.Group | h5py.Dataset | None", group.get(name))
    if node is None:
        raise UserError(f"there is no {name}", where)
    if isinstance(node, h5py.Dataset):
        if node.external or node.is_virtual:
            raise UserError(f"{name} lies outside of the file", where, "do not trust this data set")
        yield "", node
    elif isinstance(node, h5py.Group) and depth < 8:
        for key in map(str, node):
            for subname, dataset in _datasets(node, key, where, depth + 1):
                yield f"{key}/{subname}" if subname else key, dataset


def _is_text(dataset: h5py.Dataset) -> bool:
    import h5py

    return h5py.check_string_dtype(dataset.dtype) is not None and cast(int, dataset.size) < 1 << 20


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
