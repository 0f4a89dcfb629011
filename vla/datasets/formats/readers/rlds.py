"""Reads RLDS episodes as TFDS writes them (Open X-Embodiment), without TensorFlow.

A record is an episode, a tf.train.Example. Nested names are joined with "/"; features below `steps` are stacked over time.
features.json describes shapes and types (TFDS, core/features).
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
from vla.datasets.formats.readers.base import LIMIT, InMemoryFrames, Json, Raw, Reader, Ref, matching
from vla.datasets.formats.readers.example import Feature, parse_example
from vla.errors import UserError

# The pattern allows five digits, so that a name cannot claim more files than can be listed.
SHARD = re.compile(r"^(?P<name>.+)-(?P<split>[^-]+)\.tfrecord-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})$")
IMAGE_HEADS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
OPEN_FILES = 8
INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
DTYPES = ("bool", "float16", "float32", "float64", *INTEGERS)


@dataclasses.dataclass(frozen=True)
class Spec:
    """A feature as features.json describes it; -1 in a shape marks a varying length."""

    kind: str
    shape: tuple[int, ...] = ()
    dtype: str = ""
    encoding: str = ""


class RLDSReader(Reader):
    """A folder with TFRecord files (`NAME-SPLIT.tfrecord-00000-of-00042`), features.json and dataset_info.json.

    Raises:
        UserError: there are no such files, or a description is not JSON.
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
        """Split -> its files: number, count and path."""
        files = collections.defaultdict(list)
        for path in matching(self.root, "*.tfrecord-*"):
            match = SHARD.match(path.name)
            if match:
                files[match["split"]].append((int(match["number"]), int(match["count"]), path))
        return dict(files)

    def refs(self) -> list[Ref]:
        refs = []
        for split, files in self._files().items():
            paths = {number: path for number, _, path in files}
            expected = self._records_per_file(split)
            for number in range(max(max(count, number + 1) for number, count, _ in files)):
                path = paths.get(number)
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
                    refs.append(Ref(error.where, 0, (split,), f"{error.what}; the records after it cannot be read"))
                else:
                    if len(expected) > number and expected[number] != count:
                        damage = f"the file has {count} records, dataset_info.json says {expected[number]}"
                        refs.append(Ref(f"{path}, end", 0, (split,), damage))
        return refs

    def _records_per_file(self, split: str) -> list[int]:
        """Returns the records per file according to dataset_info.json; [] if it does not give them."""
        entries = self.info.get("splits")
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and entry.get("name") == split:
                with contextlib.suppress(TypeError, ValueError, OverflowError):
                    return [int(n) for n in entry.get("shardLengths", [])]
        return []

    def splits(self) -> Mapping[str, set[str] | None]:
        names = collections.defaultdict(set)
        for ref in self.refs():
            names[ref.location[0]].add(ref.name)
        return dict(names)

    def _example(self, ref: Ref) -> dict[str, Feature]:
        """Reads a record's features and verifies its checksum."""
        _, path, offset = ref.location
        if path not in self._open:
            if len(self._open) >= OPEN_FILES:
                self._open.pop(next(iter(self._open))).close()
            self._open[path] = Path(path).open("rb", buffering=0)  # noqa: SIM115
        return parse_example(tfrecord.read(self._open[path], offset, ref.weight, ref.name), ref.name, ref.weight)

    def read(self, ref: Ref) -> Raw:
        return shape_episode(self._example(ref), self.features, ref.name)

    def card(self) -> SourceCard:
        features = self.features or self._inferred_features()
        steps = {name.removeprefix("steps/"): spec for name, spec in features.items() if name.startswith("steps/")}
        images = [n for n, s in steps.items() if s.kind == "image" and s.dtype in ("", "uint8") and "depth" not in n]
        numbers = {
            n: s for n, s in steps.items() if s.kind == "tensor" and s.dtype not in ("string", "object") and -1 not in s.shape
        }
        action = [n for n in numbers if n == "action"] or [n for n in numbers if n.startswith("action/")]
        state = [n for n in numbers if n in ("observation/state", "observation/proprio")]
        instructions = ("language_instruction", "observation/natural_language_instruction", "observation/language_instruction")
        return SourceCard(
            title=str(self.info.get("name", self.root.name)),
            cameras={name.rpartition("/")[2]: CameraKey(name) for name in images},
            action=tuple(_part(n, numbers[n], len(action) > 1) for n in action),
            state=tuple(_part(n, numbers[n], False) for n in state[:1]),
            instruction=tuple(n for n in instructions if n in steps),
            conventions={"source": "read from features.json alone: gripper, rotation, frame and rate are not said there"},
        )

    def _inferred_features(self) -> dict[str, Spec]:
        """Infers the features from the first record, for data sets without features.json."""
        ref = next((r for r in self.refs() if not r.damage), None)
        return infer(self._example(ref)) if ref else {}

    def about(self) -> dict[str, Any]:
        specs = self.features or self._inferred_features()
        features = {name: f"{s.kind} {s.dtype} {list(s.shape)}".strip() for name, s in specs.items()}
        return {"name": self.info.get("name", ""), "version": self.info.get("version", ""), "features": features}


def find_records(path: Path) -> Path:
    """Finds the folder with the TFRecords: the path itself, or the only one below it (NAME/VERSION/)."""
    folders = (
        sorted({p.parent for depth in ("", "*/", "*/*/") for p in path.glob(f"{depth}*.tfrecord-*")}) if path.is_dir() else []
    )
    if not folders:
        raise UserError("no TFRecord files (NAME-SPLIT.tfrecord-00000-of-00042)", str(path), "give the folder of one data set")
    if len(folders) > 1:
        raise UserError(f"it contains {len(folders)} data sets or versions", str(path), f"give one of them, e.g. {folders[-1]}")
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


def flatten(node: Json, name: str = "", depth: int = 0) -> dict[str, Spec]:
    """Flattens a node of features.json to a table: joined name -> specification."""
    if not isinstance(node, dict) or depth > 32:
        return {}
    features_dict = node.get("featuresDict")
    children = features_dict.get("features") if isinstance(features_dict, dict) else None
    if isinstance(children, dict):
        specs: dict[str, Spec] = {}
        for key, child in children.items():
            specs |= flatten(child, f"{name}/{key}" if name else key, depth + 1)
        return specs
    sequence = node.get("sequence")
    if isinstance(sequence, dict):
        inner = flatten(sequence.get("feature"), name, depth + 1)
        if name == "steps":
            return inner
        length = _number(sequence.get("length", -1))
        return {key: dataclasses.replace(spec, shape=(length, *spec.shape)) for key, spec in inner.items()}
    kind = str(node.get("pythonClassName", "")).rpartition(".")[2]
    for key in ("image", "tensor"):
        feature = node.get(key)
        if isinstance(feature, dict):
            shape = feature.get("shape", {})
            sides = shape.get("dimensions") if isinstance(shape, dict) else None
            lengths = tuple(_number(side) for side in sides) if isinstance(sides, list) else ()
            encoding = feature.get("encoding", feature.get("encodingFormat", ""))
            return {name: Spec(key, lengths, str(feature.get("dtype", "")), str(encoding))}
    if "text" in node or kind == "Text":
        return {name: Spec("text", (), "string")}
    return {}


def _number(length: Json) -> int:
    """Parses a length of a shape; -1 if it varies or is not a number."""
    try:
        return max(int(length), -1) if isinstance(length, str | int | float) else -1
    except (ValueError, OverflowError):
        return -1


def infer(example: dict[str, Feature]) -> dict[str, Spec]:
    """Infers specifications from an episode's values, with the number of steps from `steps_of`."""
    length = steps_of(example)
    specs = {}
    for name, values in example.items():
        if isinstance(values, list):
            is_image = bool(values) and values[0].startswith(IMAGE_HEADS)
            specs[name] = Spec("image" if is_image else "text")
        elif length and len(values) % length == 0:
            width = len(values) // length
            specs[name] = Spec("tensor", () if width == 1 else (width,), str(values.dtype))
    return specs


def steps_of(example: dict[str, Feature]) -> int:
    """Returns an episode's number of steps, judged by its flags or else its texts; 0 if it has neither."""
    for name in ("steps/is_first", "steps/is_last", "steps/reward", "steps/discount"):
        if len(example.get(name, ())):
            return len(example[name])
    lists = [len(v) for n, v in example.items() if n.startswith("steps/") and isinstance(v, list)]
    return collections.Counter(lists).most_common(1)[0][0] if lists else 0


def shape_episode(example: dict[str, Feature], features: Mapping[str, Spec], where: str) -> Raw:
    """Shapes an episode's features and names them without `steps/`; UserError at `where` if a length does not fit."""
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
            raise UserError(f"the record has no {name}", where, "check that features.json belongs to this file")
        elif step:
            raise UserError(f"the record has no images {name}", where, "check that features.json belongs to this file")
    return raw


def _steps_by_shape(example: dict[str, Feature], features: Mapping[str, Spec]) -> int:
    for name, spec in features.items():
        size = math.prod(spec.shape)
        if name.startswith("steps/") and name in example and size > 0:
            return len(example[name]) // size
    return 0


def _shaped(values: Feature, spec: Spec, length: int, where: str) -> np.ndarray | list[str] | list[bytes] | InMemoryFrames:
    if isinstance(values, list):
        if len(values) != length:
            raise UserError(f"the feature has {len(values)} values for {length} steps", where)
        if spec.kind == "image":
            # TFDS stores float32 images, which are depth, as PNGs of four channels.
            return InMemoryFrames(values) if spec.dtype in ("", "uint8") else values
        if spec.kind == "text":
            return [value.decode("utf-8", "replace") for value in values]
        if spec.dtype in ("string", "object", ""):
            return values
        return _decoded(values, spec, where)
    size = math.prod(spec.shape)
    if -1 in spec.shape or len(values) != length * size:
        raise UserError(f"the feature has {len(values)} values, not {length} steps of {list(spec.shape)}", where)
    if spec.dtype == "bool" or spec.dtype in INTEGERS:
        values = values.astype(spec.dtype, copy=False)
    return values.reshape(length, *spec.shape)


def _decoded(values: list[bytes], spec: Spec, where: str) -> np.ndarray:
    """Decodes tensors stored as bytes, raw or compressed with zlib."""
    if spec.dtype not in DTYPES or -1 in spec.shape:
        raise UserError(f"encoded tensors of {spec.dtype}, shape {list(spec.shape)}", where, "this encoding is not supported")
    size = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
    if len(values) * size > LIMIT:
        raise UserError(f"the record claims {len(values)} tensors of {size} bytes", where, f"at most {LIMIT} bytes are read")
    try:
        decompressed = [inflate(value, size) if spec.encoding == "zlib" else value for value in values]
        return np.stack([np.frombuffer(value, spec.dtype).reshape(spec.shape) for value in decompressed])
    except (zlib.error, ValueError) as error:
        raise UserError(f"a tensor cannot be decoded: {error}", where) from error


def inflate(data: bytes, size: int) -> bytes:
    """Decompresses to at most `size` bytes; ValueError if there are more, zlib.error if it is damaged."""
    decompressor = zlib.decompressobj()
    value = decompressor.decompress(data, size + 1)
    if len(value) > size or not decompressor.eof:
        raise ValueError(f"the data does not decompress to {size} bytes")
    return value


def _ragged(example: dict[str, Feature], name: str, length: int, where: str) -> np.ndarray | list[str]:
    """Reads rows of different lengths: numbers are padded with zeros, texts are joined."""
    flat, lengths = example[f"{name}/ragged_flat_values"], example.get(f"{name}/ragged_row_lengths_0")
    if f"{name}/ragged_row_lengths_1" in example or not isinstance(lengths, np.ndarray):
        raise UserError("the feature is a list of lists", where, "this nesting is not supported")
    if len(lengths) != length or (lengths < 0).any() or (lengths > len(flat)).any() or lengths.sum() != len(flat):
        raise UserError(f"{len(lengths)} rows for {length} steps, or lengths that do not add up", where)
    ends = np.cumsum(lengths)
    if isinstance(flat, list):
        return [b" ".join(flat[end - n : end]).decode("utf-8", "replace") for n, end in zip(lengths, ends, strict=True)]
    if length * int(lengths.max(initial=0)) * 8 > LIMIT:
        raise UserError(f"the record claims rows of {lengths.max()} values", where, f"at most {LIMIT} bytes are read")
    table = np.zeros((length, int(lengths.max(initial=0))), flat.dtype)
    for row, (n, end) in enumerate(zip(lengths, ends, strict=True)):
        table[row, :n] = flat[end - n : end]
    return table


def _part(name: str, spec: Spec, one_of_many: bool) -> Part:
    """Makes a card's part of a feature; one of many names its dimensions after the whole feature."""
    size = math.prod(spec.shape)
    prefix = name.rpartition("/")[2] if one_of_many or size == 1 else name.rpartition("/")[2][:1]
    return Part(key=name, names=vector_names(prefix, size))
