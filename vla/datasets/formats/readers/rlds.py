"""RLDS episodes as TFDS writes them (Open X-Embodiment), read without TensorFlow.

One record is one episode, a tf.train.Example. Nested names are joined with "/"; what is below `steps` is stacked over time.
features.json says shapes and types (TFDS, core/features).
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from vla.datasets.formats.conventions.source_card import CameraKey, Part, SourceCard, vector_names
from vla.datasets.formats.readers import tfrecord
from vla.datasets.formats.readers.base import LIMIT, Listed, Raw, Reader, Ref
from vla.datasets.formats.readers.example import Feature, parse_example
from vla.errors import UserError

# Five digits: a name cannot promise more files than can be listed.
SHARD = re.compile(r"^(?P<name>.+)-(?P<split>[^-]+)\.tfrecord-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})$")
PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
OPEN_FILES = 8
INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
TYPES = ("bool", "float16", "float32", "float64", *INTEGERS)


@dataclasses.dataclass(frozen=True)
class Spec:
    """A feature as features.json describes it; -1 in a shape is a length that varies."""

    kind: str
    shape: tuple[int, ...] = ()
    dtype: str = ""
    encoding: str = ""


class RLDSReader(Reader):
    """A folder with TFRecord files (`NAME-SPLIT.tfrecord-00000-of-00042`), features.json and dataset_info.json.

    Raises:
        UserError: no such files, or a description that is not JSON.
    """

    format = "rlds"

    def __init__(self, path: str | Path):
        super().__init__(path)
        self.root = find_records(self.path)
        self.info = _load(self.root / "dataset_info.json")
        self.features = flatten(_load(self.root / "features.json"))
        self._open: dict[str, IO[bytes]] = {}

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": {}}

    def _files(self) -> dict[str, list[tuple[int, int, Path]]]:
        found = collections.defaultdict(list)
        for path in sorted(self.root.glob("*.tfrecord-*")):
            match = SHARD.match(path.name)
            if match:
                found[match["split"]].append((int(match["number"]), int(match["count"]), path))
        return dict(found)

    def refs(self) -> list[Ref]:
        refs = []
        for split, files in self._files().items():
            there = {number: path for number, _, path in files}
            promised = self._promised(split)
            for number in range(max(max(count, number + 1) for number, count, _ in files)):
                path = there.get(number)
                if path is None:
                    name = re.sub(r"-\d{5}-of", f"-{number:05d}-of", files[0][2].name)
                    refs.append(Ref(f"{self.root / name}", 0, (split,), "the file is missing"))
                    continue
                count = 0
                try:
                    for offset, length in tfrecord.scan(path):
                        refs.append(Ref(f"{path}, record {count}", length, (split, str(path), offset)))
                        count += 1
                except tfrecord.Broken as error:
                    refs.append(Ref(error.where, 0, (split,), f"{error.what}; nothing after it can be read"))
                else:
                    if len(promised) > number and promised[number] != count:
                        lost = f"the file has {count} records, dataset_info.json says {promised[number]}"
                        refs.append(Ref(f"{path}, end", 0, (split,), lost))
        return refs

    def _promised(self, split: str) -> list[int]:
        """Records per file, as dataset_info.json says."""
        entries = self.info.get("splits")
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and entry.get("name") == split:
                with contextlib.suppress(TypeError, ValueError, OverflowError):
                    return [int(n) for n in entry.get("shardLengths", [])]
        return []

    def splits(self) -> Mapping[str, set[str] | None]:
        names = collections.defaultdict(set)
        for ref in self.refs():
            names[ref.place[0]].add(ref.name)
        return dict(names)

    def _example(self, ref: Ref) -> dict[str, Feature]:
        """A record's features, its checksum verified."""
        _, path, offset = ref.place
        if path not in self._open:
            if len(self._open) >= OPEN_FILES:
                self._open.pop(next(iter(self._open))).close()
            self._open[path] = Path(path).open("rb", buffering=0)  # noqa: SIM115
        return parse_example(tfrecord.read(self._open[path], offset, ref.weight, ref.name), ref.name, ref.weight)

    def read(self, ref: Ref) -> Raw:
        return shape_episode(self._example(ref), self.features, ref.name)

    def card(self) -> SourceCard:
        features = self.features or self._guessed()
        steps = {name.removeprefix("steps/"): spec for name, spec in features.items() if name.startswith("steps/")}
        pictures = [n for n, s in steps.items() if s.kind == "image" and s.dtype in ("", "uint8") and "depth" not in n]
        numbers = {
            n: s for n, s in steps.items() if s.kind == "tensor" and s.dtype not in ("string", "object") and -1 not in s.shape
        }
        action = [n for n in numbers if n == "action"] or [n for n in numbers if n.startswith("action/")]
        state = [n for n in numbers if n in ("observation/state", "observation/proprio")]
        words = ("language_instruction", "observation/natural_language_instruction", "observation/language_instruction")
        return SourceCard(
            title=str(self.info.get("name", self.root.name)),
            cameras={name.rpartition("/")[2]: CameraKey(name) for name in pictures},
            action=tuple(_part(n, numbers[n], len(action) > 1) for n in action),
            state=tuple(_part(n, numbers[n], False) for n in state[:1]),
            instruction=tuple(n for n in words if n in steps),
            conventions={"source": "read from features.json alone: gripper, rotation, frame and rate are not said there"},
        )

    def _guessed(self) -> dict[str, Spec]:
        """What the first record looks like, where there is no features.json."""
        ref = next((r for r in self.refs() if not r.damage), None)
        return infer(self._example(ref)) if ref else {}

    def about(self) -> dict[str, Any]:
        said = {name: f"{s.kind} {s.dtype} {list(s.shape)}".strip() for name, s in (self.features or self._guessed()).items()}
        return {"name": self.info.get("name", ""), "version": self.info.get("version", ""), "features": said}


def find_records(path: Path) -> Path:
    """The folder with the TFRecords: itself, or the only one below it (NAME/VERSION/)."""
    folders = (
        sorted({p.parent for depth in ("", "*/", "*/*/") for p in path.glob(f"{depth}*.tfrecord-*")}) if path.is_dir() else []
    )
    if not folders:
        raise UserError("no TFRecord files (NAME-SPLIT.tfrecord-00000-of-00042)", str(path), "give the folder of one data set")
    if len(folders) > 1:
        raise UserError(f"{len(folders)} data sets or versions", str(path), f"give one of them, e.g. {folders[-1]}")
    return folders[0]


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"not JSON: {error}", str(path), "copy the file again") from error
    if not isinstance(value, dict):
        raise UserError("not a JSON object", str(path), "copy the file again")
    return value


def flatten(node: Any, name: str = "", depth: int = 0) -> dict[str, Spec]:
    """features.json as a flat table of names."""
    if not isinstance(node, dict) or depth > 32:
        return {}
    below = node.get("featuresDict", {}).get("features") if isinstance(node.get("featuresDict"), dict) else None
    if isinstance(below, dict):
        found: dict[str, Spec] = {}
        for key, child in below.items():
            found |= flatten(child, f"{name}/{key}" if name else key, depth + 1)
        return found
    sequence = node.get("sequence")
    if isinstance(sequence, dict):
        inner = flatten(sequence.get("feature"), name, depth + 1)
        if name == "steps":
            return inner
        length = _number(sequence.get("length", -1))
        return {key: dataclasses.replace(spec, shape=(length, *spec.shape)) for key, spec in inner.items()}
    kind = str(node.get("pythonClassName", "")).rpartition(".")[2]
    for key in ("image", "tensor"):
        body = node.get(key)
        if isinstance(body, dict):
            shape = body.get("shape", {})
            sides = shape.get("dimensions") if isinstance(shape, dict) else None
            sides = tuple(_number(side) for side in sides) if isinstance(sides, list) else ()
            return {name: Spec(key, sides, str(body.get("dtype", "")), str(body.get("encoding", body.get("encodingFormat", ""))))}
    if "text" in node or kind == "Text":
        return {name: Spec("text", (), "string")}
    return {}


def _number(value: Any) -> int:
    try:
        return max(int(value), -1)
    except (TypeError, ValueError, OverflowError):
        return -1


def infer(example: dict[str, Feature]) -> dict[str, Spec]:
    """Specifications from an episode's values alone; its steps are as many as `steps/is_first` or the texts have values."""
    length = steps_of(example)
    found = {}
    for name, values in example.items():
        if isinstance(values, list):
            picture = bool(values) and values[0].startswith(PICTURES)
            found[name] = Spec("image" if picture else "text")
        elif length and len(values) % length == 0:
            width = len(values) // length
            found[name] = Spec("tensor", () if width == 1 else (width,), str(values.dtype))
    return found


def steps_of(example: dict[str, Feature]) -> int:
    """An episode's number of steps."""
    for name in ("steps/is_first", "steps/is_last", "steps/reward", "steps/discount"):
        if len(example.get(name, ())):
            return len(example[name])
    lists = [len(v) for n, v in example.items() if n.startswith("steps/") and isinstance(v, list)]
    return collections.Counter(lists).most_common(1)[0][0] if lists else 0


def shape_episode(example: dict[str, Feature], features: Mapping[str, Spec], where: str) -> Raw:
    """An episode's features by their names below `steps`, in shape; UserError where a length does not fit."""
    features = features or infer(example)
    raw: Raw = {}
    length = steps_of(example) or _steps_by_shape(example, features)
    for name, spec in features.items():
        step = name.startswith("steps/")
        key = name.removeprefix("steps/")
        if name in example:
            raw[key] = _shaped(example[name], spec, length if step else 1, f"{where}, {name}")
            if not step and spec.kind == "text" and raw[key]:
                raw[key] = raw[key][0]
        elif f"{name}/ragged_flat_values" in example and step:
            raw[key] = _ragged(example, name, length, f"{where}, {name}")
        elif step and spec.kind != "image":
            raise UserError(f"it has no {name}", where, "the record and features.json do not belong together")
        elif step:
            raise UserError(f"it has no pictures {name}", where, "the record and features.json do not belong together")
    return raw


def _steps_by_shape(example: dict[str, Feature], features: Mapping[str, Spec]) -> int:
    for name, spec in features.items():
        size = math.prod(spec.shape)
        if name.startswith("steps/") and name in example and size > 0:
            return len(example[name]) // size
    return 0


def _shaped(values: Feature, spec: Spec, length: int, where: str) -> Any:
    if isinstance(values, list):
        if len(values) != length:
            raise UserError(f"it has {len(values)} values for {length} steps", where)
        if spec.kind == "image":
            return Listed(values)
        if spec.kind == "text":
            return [value.decode("utf-8", "replace") for value in values]
        if spec.dtype in ("string", "object", ""):
            return values
        return _decoded(values, spec, where)
    size = math.prod(spec.shape)
    if -1 in spec.shape or len(values) != length * size:
        raise UserError(f"it has {len(values)} values, not {length} steps of {list(spec.shape)}", where)
    if spec.dtype == "bool" or spec.dtype in INTEGERS:
        values = values.astype(spec.dtype, copy=False)
    return values.reshape(length, *spec.shape)


def _decoded(values: list[bytes], spec: Spec, where: str) -> np.ndarray:
    """Tensors stored as bytes, plain or zlib."""
    if spec.dtype not in TYPES or -1 in spec.shape:
        raise UserError(f"tensors of {spec.dtype} and shape {list(spec.shape)}", where, "this encoding is not read")
    size = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
    if len(values) * size > LIMIT:
        raise UserError(f"{len(values)} tensors of {size} bytes", where, f"at most {LIMIT} bytes are read")
    try:
        plain = [inflate(value, size) if spec.encoding == "zlib" else value for value in values]
        return np.stack([np.frombuffer(value, spec.dtype).reshape(spec.shape) for value in plain])
    except (zlib.error, ValueError) as error:
        raise UserError(f"a tensor cannot be decoded: {error}", where) from error


def inflate(data: bytes, size: int) -> bytes:
    """Decompresses to at most `size` bytes; ValueError if there are more, zlib.error if it is damaged."""
    machine = zlib.decompressobj()
    value = machine.decompress(data, size + 1)
    if len(value) > size or not machine.eof:
        raise ValueError(f"it does not decompress to {size} bytes")
    return value


def _ragged(example: dict[str, Feature], name: str, length: int, where: str) -> np.ndarray | list[str]:
    """Rows of different lengths, filled up with zeros; texts are joined."""
    flat, lengths = example[f"{name}/ragged_flat_values"], example.get(f"{name}/ragged_row_lengths_0")
    if f"{name}/ragged_row_lengths_1" in example or not isinstance(lengths, np.ndarray):
        raise UserError("lists within lists", where, "this nesting is not read")
    if len(lengths) != length or (lengths < 0).any() or (lengths > len(flat)).any() or lengths.sum() != len(flat):
        raise UserError(f"{len(lengths)} rows for {length} steps, or lengths that do not add up", where)
    ends = np.cumsum(lengths)
    if isinstance(flat, list):
        return [b" ".join(flat[end - n : end]).decode("utf-8", "replace") for n, end in zip(lengths, ends, strict=True)]
    if length * int(lengths.max(initial=0)) * 8 > LIMIT:
        raise UserError(f"rows of up to {lengths.max()} values", where, f"at most {LIMIT} bytes are read")
    table = np.zeros((length, int(lengths.max(initial=0))), flat.dtype)
    for row, (n, end) in enumerate(zip(lengths, ends, strict=True)):
        table[row, :n] = flat[end - n : end]
    return table


def _part(name: str, spec: Spec, one_of_many: bool) -> Part:
    size = math.prod(spec.shape)
    prefix = name.rpartition("/")[2] if one_of_many or size == 1 else name.rpartition("/")[2][:1]
    return Part(key=name, names=vector_names(prefix, size))
