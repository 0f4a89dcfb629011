"""Reads RLDS episodes as TFDS writes them (Open X-Embodiment), without TensorFlow.

A record is an episode, a tf.train.Example.
"""

from __future__ import annotations

import collections
import contextlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from vla.datasets.formats.conventions.source_card import CameraKey, Part, SourceCard, vector_names
from vla.datasets.formats.readers import tfrecord
from vla.datasets.formats.readers.base import Raw, Reader, Ref, matching
from vla.datasets.formats.readers.example import Feature, parse_example
from vla.datasets.formats.readers.rlds_features import Spec, flatten, infer, shape_episode
from vla.errors import UserError

# The pattern allows five digits, so that a name cannot claim more files than can be listed.
SHARD = re.compile(r"^(?P<name>.+)-(?P<split>[^-]+)\.tfrecord-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})$")
OPEN_FILES = 8


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
        images = [
            n
            for n, s in steps.items()
            if s.kind == "image" and s.dtype in ("", "uint8") and len(s.shape) in (0, 3) and "depth" not in n
        ]
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
            stated={},
        )

    def _inferred_features(self) -> dict[str, Spec]:
        """Infers the features from a record, for data sets without features.json."""
        return self.of_first(lambda ref: infer(self._example(ref))) or {}

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


def _part(name: str, spec: Spec, one_of_many: bool) -> Part:
    """Makes a card's part of a feature; one of many names its dimensions after the whole feature."""
    size = math.prod(spec.shape)
    prefix = name.rpartition("/")[2] if one_of_many or size == 1 else name.rpartition("/")[2][:1]
    return Part(key=name, names=vector_names(prefix, size))
