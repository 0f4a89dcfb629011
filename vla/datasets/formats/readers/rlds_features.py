"""The features of RLDS records: what features.json says of them, and their values in the shapes and types that it gives.

Nested names are joined with "/"; features below `steps` are stacked over time (TFDS, core/features).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vla.datasets.formats.readers.base import IMAGE_HEADS, LIMIT, Columns, InMemoryFrames, Json, Raw
from vla.datasets.formats.readers.example import Feature
from vla.errors import UserError

FLAGS = ("steps/is_first", "steps/is_last", "steps/is_terminal")
REWARDS = ("steps/reward", "steps/discount")
INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
DTYPES = ("bool", "float16", "float32", "float64", *INTEGERS)


@dataclasses.dataclass(frozen=True)
class Spec:
    """A feature as features.json describes it; -1 in a shape marks a varying length."""

    kind: str
    shape: tuple[int, ...] = ()
    dtype: str = ""
    encoding: str = ""


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
    length = steps_of(example, {})
    specs = {}
    for name, values in example.items():
        if isinstance(values, list):
            is_image = bool(values) and values[0].startswith(IMAGE_HEADS)
            specs[name] = Spec("image" if is_image else "text")
        elif not name.startswith("steps/"):
            specs[name] = Spec("tensor", (len(values),), str(values.dtype))
        elif length and len(values) % length == 0:
            width = len(values) // length
            specs[name] = Spec("tensor", () if width == 1 else (width,), str(values.dtype))
    return specs


def steps_of(example: dict[str, Feature], features: Mapping[str, Spec]) -> int:
    """Returns the number of steps that most of an episode's features have; 0 if none has any."""
    votes: dict[int, float] = {}
    for name, values in example.items():
        if name.startswith("steps/") and (length := _length(name, values, features.get(name))):
            # In doubt the flags decide, then texts and images.
            weight = 1.01 if name in FLAGS else 1.0 if isinstance(values, list) else 0.99
            votes[length] = votes.get(length, 0.0) + weight
    return max(votes, key=votes.__getitem__, default=0)


def _length(name: str, values: Feature, spec: Spec | None) -> int:
    """Returns the number of steps of a feature, as far as name and description tell; else 0."""
    if isinstance(values, list):
        one_each = spec is None or (len(spec.shape) <= 3 if spec.kind == "image" else not spec.shape)
        return len(values) * (one_each and not name.endswith("/ragged_flat_values"))
    if name.endswith("/ragged_row_lengths_0") or (spec is None and name in FLAGS + REWARDS):
        return len(values)
    size = math.prod(spec.shape) if spec and -1 not in spec.shape else 0
    return len(values) // size if size and len(values) % size == 0 else 0


def shape_episode(example: dict[str, Feature], features: Mapping[str, Spec], where: str) -> Raw:
    """Names an episode's features without `steps/`; each is shaped, and checked, when it is used.

    A feature outside the steps is one value of the episode, of any length.
    """
    features = features or infer(example)
    raw, length = Columns(), steps_of(example, features)
    for name, spec in features.items():
        feature_where = f"{where}, {name}"
        if name.startswith("steps/"):
            raw[name.removeprefix("steps/")] = functools.partial(_of_steps, example, name, spec, length, feature_where)
        elif name in example:
            raw.setdefault(name, functools.partial(_of_episode, example[name], spec, feature_where))
    return raw


def _of_steps(example: dict[str, Feature], name: str, spec: Spec, length: int, where: str) -> Any:
    """Returns a feature of the steps; UserError if it is missing or its length does not fit."""
    if name in example:
        return _shaped(example[name], spec, length, where)
    if f"{name}/ragged_flat_values" in example:
        return _ragged(example, name, length, where)
    missing = "images " if spec.kind == "image" else ""
    raise UserError(f"the record has no {missing}{name}", where, "check that features.json belongs to this file")


def _of_episode(values: Feature, spec: Spec, where: str) -> Any:
    """Returns a feature of the whole episode: a text, or numbers and images as they are stored."""
    if isinstance(values, list) and (spec.kind == "text" or spec.dtype in ("string", "object")):
        if len(values) > 1:
            raise UserError(f"it holds {len(values)} texts for the whole episode", where, "name another key in the card")
        return values[0].decode("utf-8", "replace") if values else ""
    size = 0 if -1 in spec.shape else math.prod(spec.shape)
    if isinstance(values, list) or len(values) == size:
        return _shaped(values, spec, 1, where)
    return values.reshape(1, -1)


def _shaped(values: Feature, spec: Spec, length: int, where: str) -> np.ndarray | list[str] | list[bytes] | InMemoryFrames:
    if isinstance(values, list):
        if len(values) != length:
            raise UserError(f"the feature has {len(values)} values for {length} steps", where)
        if spec.kind == "image":
            if spec.dtype not in ("", "uint8"):
                # TFDS stores float32 images, which are depth, as PNGs of four channels.
                raise UserError(f"its images are {spec.dtype}, not of 8 bits", where, "name another key in the card")
            return InMemoryFrames(values)
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
