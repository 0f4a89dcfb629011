"""Demonstrations as robosuite, robomimic and LIBERO store them: `data/demo_N` of an HDF5 file, or of all files of a folder."""

from __future__ import annotations

import collections
import contextlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla.datasets.formats.conventions.source_card import CameraKey, Part, SourceCard, vector_names
from vla.datasets.formats.readers.base import LIMIT, Raw, Reader, Ref, library
from vla.errors import UserError

DEMO = re.compile(r"^demo_?(\d+)$")
TOGETHER = 32
"""Pictures that are read at once."""


def _h5py() -> Any:
    return library("h5py", "reading HDF5")


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    """h5py raises many kinds of errors for a damaged file: all become one of ours."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"it is damaged: {error}", where, "copy the file again") from error


class H5Frames:
    """Pictures uint8 [T, H, W, 3] of a file, some at a time."""

    def __init__(self, reader: HDF5Reader, path: str, name: str, length: int):
        self.reader, self.path, self.name, self.length = reader, path, name, length

    def __len__(self) -> int:
        return self.length

    def rows(self, rows: Sequence[int]) -> Iterable[np.ndarray]:
        where = f"{self.path}, {self.name}"
        with _named(where):
            dataset = self.reader.opened(self.path)[self.name]
        for start in range(0, len(rows), TOGETHER):
            some = list(rows[start : start + TOGETHER])
            # One run of rows is read far faster than a list of them.
            block = _read(dataset, slice(some[0], some[-1] + 1), where)
            yield from (block[row - some[0]] for row in some)


class HDF5Reader(Reader):
    """One file, or all *.hdf5 and *.h5 of a folder.

    Raises:
        UserError: h5py is not installed, or there is no such file.
    """

    format = "hdf5"

    def __init__(self, path: str | Path):
        super().__init__(path)
        self.files = sorted([*self.path.glob("*.hdf5"), *self.path.glob("*.h5")]) if self.path.is_dir() else [self.path]
        if not self.files:
            raise UserError("no *.hdf5 or *.h5 files", str(path))
        _h5py()
        self._open: dict[str, Any] = {}

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": {}}

    def opened(self, path: str) -> Any:
        """The open file; UserError if it is none, or cut off."""
        if path not in self._open:
            for file in self._open.values():
                file.close()
            self._open.clear()
            try:
                self._open[path] = _h5py().File(path, "r")
            except OSError as error:
                raise UserError(f"it cannot be opened: {error}", path, "copy the file again") from error
        return self._open[path]

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
                said = int(self.opened(str(path))["data"].attrs.get("num_demos", len(demos)))
                if said != len(demos):
                    refs.append(Ref(f"{path}, end", 0, (), f"it has {len(demos)} demonstrations, its num_demos says {said}"))
        return refs

    def _demos(self, path: str) -> list[tuple[str, int]]:
        """Names below `data` in the order of their numbers, and their lengths."""
        with _named(path):
            data = self.opened(path)["data"]
            numbers = sorted((int(m[1]), name) for name in data if (m := DEMO.match(name)))
            found = []
            for _, name in numbers:
                link = data.get(name, getlink=True)
                # A demonstration without actions is listed: reading it says what is wrong.
                shape = () if _leaves(link) else getattr(data[name].get("actions"), "shape", ())
                found.append((name, shape[0] if shape else 0))
        if not found:
            raise UserError("it has no data/demo_N", path)
        return found

    def read(self, ref: Ref) -> Raw:
        path, name = ref.place
        raw: Raw = {}
        with _named(ref.name):
            group = self.opened(path)["data"]
            for key, dataset in _datasets(group, name, ref.name):
                raw[key] = self._value(path, f"data/{name}/{key}", dataset, ref.name)
            words = instruction(dict(group.attrs), Path(path))
            said = int(group[name].attrs.get("num_samples", -1))
        if said >= 0 and isinstance(raw.get("actions"), np.ndarray) and said != len(np.atleast_1d(raw["actions"])):
            raise UserError(f"it has {len(raw['actions'])} actions, its num_samples says {said}", ref.name, "copy the file again")
        if words:
            raw["language_instruction"] = words
        return raw

    def _value(self, path: str, name: str, dataset: Any, where: str) -> Any:
        if dataset.ndim == 4 and dataset.dtype == np.uint8:
            if math.prod(dataset.shape[1:]) > LIMIT // TOGETHER:
                raise UserError(f"pictures of {dataset.shape[1:]}", f"{where}, {name}", "too large to be read")
            return H5Frames(self, path, name, dataset.shape[0])
        if dataset.dtype.kind not in "fiub":
            return [str(v) for v in np.atleast_1d(dataset.asstr()[()])] if _is_text(dataset) else []
        return _read(dataset, slice(None), f"{where}, {name}")

    def splits(self) -> Mapping[str, set[str] | None]:
        names = collections.defaultdict(set)
        for path in self.files:
            # A file that cannot be read is listed with its damage, and has no splits.
            with contextlib.suppress(Exception):
                masks = self.opened(str(path)).get("mask")
                for split in masks or ():
                    entries = _read(masks[split], slice(None), str(path)).ravel()
                    demos = {e.decode() if isinstance(e, bytes) else str(e) for e in entries}
                    names[split] |= {f"{path}, {demo}" for demo in demos}
        return dict(names)

    def card(self) -> SourceCard:
        """Every camera and every vector observation; what they mean is said by the shipped cards libero and robomimic."""
        ref = next((r for r in self.refs() if not r.damage), None)
        if ref is None:
            return SourceCard()
        with _named(ref.name):
            return self._said(ref)

    def _said(self, ref: Ref) -> SourceCard:
        group = self.opened(ref.place[0])["data"][ref.place[1]]
        found = dict(_datasets(group.parent, ref.place[1], ref.name))
        pictures = {k: d for k, d in found.items() if d.ndim == 4 and d.dtype == np.uint8 and k.startswith("obs/")}
        vectors = {k: d for k, d in found.items() if k.startswith("obs/") and d.ndim in (1, 2) and d.dtype.kind in "fiu"}
        size = {k: math.prod(d.shape[1:]) for k, d in found.items() if d.ndim}
        named = {_camera_name(k): CameraKey(k, self._orientation(group.parent)) for k in pictures}
        return SourceCard(
            title=self.path.stem,
            cameras=named,
            action=(Part("actions", vector_names("a", size["actions"])),) if "actions" in found else (),
            state=tuple(Part(k, vector_names(k.removeprefix("obs/"), size[k])) for k in sorted(vectors)),
            instruction=("language_instruction",),
            control_hz=self._rate(group.parent),
            conventions={"source": "read from the file alone: gripper, rotation and frame are not said there"},
        )

    def _orientation(self, data: Any) -> Any:
        """What the file says, else upright (robomimic flips its pictures when it extracts them)."""
        return "raw_opengl" if data.attrs.get("macros_image_convention") == "opengl" else "upright"

    def _rate(self, data: Any) -> float:
        try:
            return float(json.loads(data.attrs["env_args"])["env_kwargs"]["control_freq"])
        except (KeyError, ValueError, TypeError):
            return 20.0

    def about(self) -> dict[str, Any]:
        ref = next((r for r in self.refs() if not r.damage), None)
        if ref is None:
            return {"files": len(self.files)}
        with _named(ref.name):
            data = self.opened(ref.place[0])["data"]
            attributes = {k: str(v)[:200] for k, v in data.attrs.items()}
            found = {k: f"{d.dtype} {list(d.shape)}" for k, d in _datasets(data, ref.place[1], ref.name)}
        return {"files": len(self.files), "attributes": attributes, "features": found}


def _camera_name(key: str) -> str:
    return key.removeprefix("obs/").removesuffix("_image").removesuffix("_rgb")


def instruction(attributes: Mapping[str, Any], path: Path) -> str:
    """What a file says its task is: LIBERO's problem_info, else "" ."""
    try:
        words = json.loads(attributes["problem_info"])["language_instruction"]
    except (LookupError, ValueError, TypeError):
        return ""
    # Some files hold a list of words, or quotation marks within the text.
    return " ".join(words).strip() if isinstance(words, list) else str(words).strip().strip('"')


def _leaves(link: Any) -> bool:
    return isinstance(link, _h5py().ExternalLink)


def _datasets(group: Any, name: str, where: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Names below a group and their datasets; UserError for links and data that lie outside of the file."""
    h5py = _h5py()
    if _leaves(group.get(name, getlink=True)):
        raise UserError(f"{name} is a link out of the file", where, "do not trust this data set")
    node = group.get(name)
    if node is None:
        raise UserError(f"there is no {name}", where)
    if isinstance(node, h5py.Dataset):
        if node.external or node.is_virtual:
            raise UserError(f"{name} lies outside of the file", where, "do not trust this data set")
        yield "", node
    elif isinstance(node, h5py.Group) and depth < 8:
        for key in node:
            for below, dataset in _datasets(node, key, where, depth + 1):
                yield f"{key}/{below}" if below else key, dataset


def _is_text(dataset: Any) -> bool:
    return _h5py().check_string_dtype(dataset.dtype) is not None and dataset.size < 1 << 20


def _read(dataset: Any, rows: slice, where: str) -> np.ndarray:
    """Rows of a dataset; UserError for more than a record may take, or damaged data."""
    first, end, _ = rows.indices(dataset.shape[0]) if dataset.ndim else (0, 1, 1)
    if (end - first) * math.prod(dataset.shape[1:]) * dataset.dtype.itemsize > LIMIT:
        raise UserError(f"it claims {dataset.shape} values", where, f"at most {LIMIT} bytes are read")
    if math.prod(dataset.chunks or (0,)) * dataset.dtype.itemsize > LIMIT:
        raise UserError(f"it is stored in pieces of {dataset.chunks} values", where, f"at most {LIMIT} bytes are read")
    try:
        return np.asarray(dataset[rows] if dataset.ndim else dataset[()])
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"it cannot be read: {error}", where, "copy the file again") from error
