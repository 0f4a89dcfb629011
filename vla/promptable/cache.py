"""Representations that were computed before: kept in memory and, as safetensors, on disk, found by what they are made of."""

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
    """How often the cache was of use.

    Attributes:
        memory, disk: entries found there.
        computed: entries that were not there, or were of no use.
        damaged: files that could not be read, or do not hold what they say.
        foreign: files under this name that are of another model, prompt or picture.
    """

    memory: int = 0
    disk: int = 0
    computed: int = 0
    damaged: int = 0
    foreign: int = 0

    @property
    def rate(self) -> float:
        """Share of the observations that cost no call of the model; 0 before the first."""
        asked = self.memory + self.disk + self.computed
        return (self.memory + self.disk) / asked if asked else 0.0

    def to_dict(self) -> dict[str, float]:
        return {**dataclasses.asdict(self), "rate": self.rate}


class CachedRepresentation:
    """A representation whose results are looked up before they are computed; called in the same way, with the same results.

    A result's key is the SHA-256 of the pictures, the filled-in prompt, the model's weights, its configuration and processor, and
    all settings: equal keys mean equal bits, as the model is always called with one declared shape. Equal observations of one
    call are computed once.

    Args:
        representation: computes what is not there.
        folder: keeps entries, one file each; "" keeps none on disk. Several processes may share it.
        memory_mb: entries in memory, MiB; the least recently used go first.
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
        keys = [self.key(own, one) for own, one in zip(images, fields, strict=True)]
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        found = {key: entry for key in first if (entry := self._recall(key)) is not None}
        self.hits.memory += len(keys) - len(first)
        places = sorted(place for key, place in first.items() if key not in found)
        if places:
            made = self.representation([images[p] for p in places], [fields[p] for p in places])
            for row, place in enumerate(places):
                # A copy: a slice would keep the whole batch in memory.
                entry = States(*(getattr(made, name)[row : row + 1].clone() for name in NAMES))
                found[keys[place]] = entry
                self._keep(keys[place], entry)
                self._write(keys[place], entry)
            self.hits.computed += len(places)
        return States(*(torch.cat([getattr(found[key], name) for key in keys]) for name in NAMES))

    def key(self, images: Images, fields: Mapping[str, str]) -> str:
        """The key of an observation's entry."""
        digest = hashlib.sha256(self._settings)
        digest.update(f"\n{self.representation.question(fields)!r}\n".encode())
        for image in images:
            digest.update(f"{image.dtype} {image.shape}\n".encode())
            digest.update(image.tobytes())
        return digest.hexdigest()

    def path(self, key: str) -> Path | None:
        """Where an entry lies on disk."""
        return self.folder / key[:2] / f"{key}.safetensors" if self.folder else None

    def _recall(self, key: str) -> States | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            self.hits.memory += 1
            return entry
        path = self.path(key)
        if path is None or not path.is_file():
            return None
        why, entry = read_entry(path, key)
        if entry is None or tuple(entry.tokens.shape[1:]) != self.shape:
            kind = "foreign" if why == "foreign" else "damaged"
            setattr(self.hits, kind, getattr(self.hits, kind) + 1)
            warnings.warn(f"{path}: {why or 'another shape'}; it is computed again", stacklevel=2)
            return None
        self.hits.disk += 1
        self._keep(key, entry)
        return entry

    def _keep(self, key: str, entry: States) -> None:
        size = _size(entry)
        if size > self._room:
            return
        self._entries[key] = entry
        self._used += size
        while self._used > self._room:
            self._used -= _size(self._entries.popitem(last=False)[1])

    def _write(self, key: str, entry: States) -> None:
        path = self.path(key)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{key[:16]}.{os.getpid()}.{threading.get_ident()}")
        unfinished.write_bytes(save({name: getattr(entry, name) for name in NAMES}, {"key": key, "sha256": _digest(entry)}))
        unfinished.replace(path)


def read_entry(path: Path, key: str) -> tuple[str, States | None]:
    """An entry of one row from its file, or why there is none: "foreign" where the file says it is another's."""
    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
            if said.get("key") != key:
                return "foreign", None
            entry = States(*(file.get_tensor(name) for name in NAMES))
    except (SafetensorError, OSError) as error:
        return f"damaged: {' '.join(str(error).split())}", None
    return ("", entry) if said.get("sha256") == _digest(entry) else ("damaged: its content is not what was written", None)


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
