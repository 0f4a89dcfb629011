"""Writes RLDS data sets as TFDS lays them out, with what reports say of other people's."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from outside.pixels import encoded, level, plain

Feature = list[bytes] | np.ndarray


def varint(value: int) -> bytes:
    out, value = b"", value & 0xFFFFFFFFFFFFFFFF
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field of protobuf."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def example(values: Mapping[str, Feature]) -> bytes:
    """A tf.train.Example."""
    entries = []
    for name, value in values.items():
        if isinstance(value, list):
            feature = field(1, b"".join(field(1, v) for v in value))
        elif value.dtype.kind == "f":
            feature = field(2, field(1, value.astype("<f4").tobytes()))
        else:
            feature = field(3, field(1, b"".join(varint(int(v)) for v in value.ravel())))
        entries.append(field(1, field(1, name.encode()) + field(2, feature)))
    return field(1, b"".join(entries))


def masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def records(payloads: Sequence[bytes]) -> bytes:
    """The content of a TFRecord file."""
    heads = [struct.pack("<Q", len(payload)) for payload in payloads]
    return b"".join(head + masked(head) + payload + masked(payload) for head, payload in zip(heads, payloads, strict=True))


def tensor(dtype: str, *shape: int) -> dict[str, Any]:
    described = {"shape": {"dimensions": [str(n) for n in shape]}, "dtype": dtype, "encoding": "none"}
    return {"pythonClassName": "tensorflow_datasets.core.features.tensor_feature.Tensor", "tensor": described}


def image(dtype: str = "uint8", channels: int = 3) -> dict[str, Any]:
    described = {"shape": {"dimensions": ["32", "48", str(channels)]}, "dtype": dtype, "encodingFormat": "png"}
    return {"pythonClassName": "tensorflow_datasets.core.features.image_feature.Image", "image": described}


def text() -> dict[str, Any]:
    return {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}}


def group(**features: Any) -> dict[str, Any]:
    return {
        "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }


def sequence(feature: dict[str, Any], length: int = -1) -> dict[str, Any]:
    name = "tensorflow_datasets.core.features.sequence_feature.Sequence"
    return {"pythonClassName": name, "sequence": {"feature": feature, "length": str(length)}}


def episode(number: int, length: int, **changes: Feature | None) -> dict[str, Feature]:
    """An ordinary episode whose actions and images tell the episode and the step; changes name features below `steps`."""
    steps = np.arange(length)
    values: dict[str, Feature | None] = {
        "steps/observation/image": [encoded(plain(level(number, t))) for t in steps],
        "steps/observation/state": np.stack([steps, np.full(length, number)], 1).astype(np.float32).ravel(),
        "steps/action": np.stack([steps / 10, np.full(length, number)], 1).astype(np.float32).ravel(),
        "steps/language_instruction": [f"lift object {number}".encode()] * length,
        "steps/is_first": steps == 0,
        "steps/is_last": steps == length - 1,
        **{name if "/" in name and not name.startswith("observation") else f"steps/{name}": v for name, v in changes.items()},
    }
    return {name: value for name, value in values.items() if value is not None}


def described(metadata: dict[str, Any] | None = None, observation: dict[str, Any] | None = None, **steps: Any) -> dict[str, Any]:
    """features.json of `episode`, with further features (None leaves one out)."""
    seen = {"image": image(), "state": tensor("float32", 2), **(observation or {})}
    features = {
        "observation": group(**seen),
        "action": tensor("float32", 2),
        "language_instruction": text(),
        "is_first": tensor("bool"),
        "is_last": tensor("bool"),
        **steps,
    }
    whole = sequence(group(**{name: feature for name, feature in features.items() if feature is not None}))
    more = {"episode_metadata": group(**metadata)} if metadata else {}
    return group(steps=whole, **more)


def write(
    folder: Path,
    episodes: Sequence[Mapping[str, Feature] | bytes],
    features: dict[str, Any] | None = None,
    name: str = "toy",
    files: int = 1,
    info: bool = True,
) -> Path:
    """A folder of TFRecord files with its descriptions; `features={}` and `info=False` leave one out."""
    folder.mkdir(parents=True, exist_ok=True)
    shares = [list(episodes[k::files]) for k in range(files)]
    for k, share in enumerate(shares):
        payloads = [entry if isinstance(entry, bytes) else example(entry) for entry in share]
        (folder / f"{name}-train.tfrecord-{k:05d}-of-{files:05d}").write_bytes(records(payloads))
    if features != {}:
        (folder / "features.json").write_text(json.dumps(features or described()))
    if info:
        entry = {"name": "train", "shardLengths": [str(len(share)) for share in shares], "numBytes": "0"}
        content = {"name": name, "version": "1.0.0", "fileFormat": "tfrecord", "splits": [entry]}
        (folder / "dataset_info.json").write_text(json.dumps(content))
    return folder
