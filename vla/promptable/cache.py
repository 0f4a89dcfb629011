"""A cache of representations in memory and on disk (safetensors), keyed by everything that they depend on."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from vla.models.families.base import Images
from vla.promptable.representation import PromptableRepresentation, States, check_observations

NAMES = tuple(f.name for f in dataclasses.fields(States))


@dataclasses.dataclass
class Hits:
    """Counts of cache hits and misses.

    Attributes:
        memory, disk: entries found in memory and on disk.
        computed: entries that were missing or unusable, and so were computed.
        damaged: files that could not be read, or whose content does not match their checksum.
        foreign: files of this name that hold the entry of another key.
    """

    memory: int = 0
    disk: int = 0
    computed: int = 0
    damaged: int = 0
    foreign: int = 0

    @property
    def rate(self) -> float:
        """Share of the observations that needed no call of the model; 0 before the first."""
        total = self.memory + self.disk + self.computed
        return (self.memory + self.disk) / total if total else 0.0

    def to_dict(self) -> dict[str, float]:
        """Returns the counts and the rate by name."""
        return {**dataclasses.asdict(self), "rate": self.rate}


class CachedRepresentation:
    """A representation with a cache. It is called like the representation and gives the same results.

    The key of an entry is the SHA-256 of the images, the filled-in prompt, the model's weights, configuration and processor, and
    all settings. Equal keys mean bit-equal results, because the model is always called with one declared shape. Equal
    observations of one call are computed once.

    Args:
        representation: computes missing entries.
        folder: where entries are stored, one file each; "": memory only. Several processes may share a folder.
        memory_mb: size of the cache in memory, in MiB; the least recently used entries are dropped.
    """

    def __init__(self, representation: PromptableRepresentation, folder: str | Path = "", memory_mb: float = 512):
        self.representation, self.folder, self.hits = representation, Path(folder) if folder else None, Hits()
        self.shape, self.identity, self.prompt = representation.shape, representation.identity, representation.prompt
        self.answers = representation.answers
        self._settings = json.dumps(self.identity, sort_keys=True).encode()
        self._entries: collections.OrderedDict[str, States] = collections.OrderedDict()
        self._room, self._used = int(memory_mb * 2**20), 0

    def __call__(self, images: Sequence[Images], fields: Sequence[Mapping[str, str]]) -> States:
        check_observations(images, fields)
        keys = [self.key(*observation) for observation in zip(images, fields, strict=True)]
        first = {key: index for index, key in reversed(list(enumerate(keys)))}
        entries = {key: entry for key in first if (entry := self._load(key)) is not None}
        self.hits.memory += len(keys) - len(first)
        missing = sorted(index for key, index in first.items() if key not in entries)
        if missing:
            computed = self.representation([images[i] for i in missing], [fields[i] for i in missing])
            for row, index in enumerate(missing):
                # A copy: a slice would keep the whole batch in memory.
                entry = States(*(getattr(computed, name)[row : row + 1].clone() for name in NAMES))
                entries[keys[index]] = entry
                self._store(keys[index], entry)
                self._write(keys[index], entry)
            self.hits.computed += len(missing)
        return States(*(torch.cat([getattr(entries[key], name) for key in keys]) for name in NAMES))

    def key(self, images: Images, fields: Mapping[str, str]) -> str:
        """Returns the key of an observation's entry."""
        digest = hashlib.sha256(self._settings)
        digest.update(f"\n{self.representation.question(fields)!r}\n".encode())
        for image in images:
            digest.update(f"{image.dtype} {image.shape}\n".encode())
            digest.update(image.tobytes())
        return digest.hexdigest()

    def path(self, key: str) -> Path | None:
        """Returns the file of an entry; None if nothing is stored on disk."""
        return self.folder / key[:2] / f"{key}.safetensors" if self.folder else None

    def _load(self, key: str) -> States | None:
        """Returns an entry from memory or disk, and counts the hit; None if there is no usable one."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            self.hits.memory += 1
            return entry
        path = self.path(key)
        if path is None or not path.is_file():
            return None
        problem, entry = read_entry(path, key)
        if entry is None or tuple(entry.tokens.shape[1:]) != self.shape:
            kind = "foreign" if problem == "foreign" else "damaged"
            setattr(self.hits, kind, getattr(self.hits, kind) + 1)
            warnings.warn(f"{path}: {problem or 'another shape'}; the entry is computed again", stacklevel=2)
            return None
        self.hits.disk += 1
        self._store(key, entry)
        return entry

    def _store(self, key: str, entry: States) -> None:
        """Keeps an entry in memory, and drops the least recently used ones if there is no room."""
        size = _size(entry)
        if size > self._room:
            return
        self._entries[key] = entry
        self._used += size
        while self._used > self._room:
            self._used -= _size(self._entries.popitem(last=False)[1])

    def _write(self, key: str, entry: States) -> None:
        """Writes an entry to disk under a temporary name, then renames it."""
        path = self.path(key)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{key[:16]}.{os.getpid()}.{threading.get_ident()}")
        temporary.write_bytes(save({name: getattr(entry, name) for name in NAMES}, {"key": key, "sha256": _digest(entry)}))
        temporary.replace(path)


def read_entry(path: Path, key: str) -> tuple[str, States | None]:
    """Reads an entry of one row. Returns ("", entry), or a problem and None: "foreign" if the file holds another key's entry."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                return "foreign", None
            entry = States(*(file.get_tensor(name) for name in NAMES))
    except (SafetensorError, OSError) as error:
        return f"damaged: {' '.join(str(error).split())}", None
    return ("", entry) if metadata.get("sha256") == _digest(entry) else ("damaged: its content does not match its checksum", None)


def _tensors(entry: States) -> list[torch.Tensor]:
    return [getattr(entry, name) for name in NAMES]


def _size(entry: States) -> int:
    return sum(tensor.nbytes for tensor in _tensors(entry))


def _digest(entry: States) -> str:
    digest = hashlib.sha256()
    for tensor in _tensors(entry):
        digest.update(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
