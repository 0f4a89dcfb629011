"""Reads what commands wrote, with tarfile and json alone, and without the package under test."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from outside.pixels import brightness


@dataclasses.dataclass
class Sample:
    """A sample of a shard: its key and members."""

    key: str
    members: dict[str, bytes]

    @property
    def info(self) -> dict[str, Any]:
        return json.loads(self.members["json"])

    def array(self, name: str) -> np.ndarray:
        return np.load(io.BytesIO(self.members[f"{name}.npy"]), allow_pickle=False)

    @property
    def images(self) -> dict[str, bytes]:
        return {name.removesuffix(".jpg"): data for name, data in self.members.items() if name.endswith(".jpg")}


def samples(folder: Path) -> list[Sample]:
    """The samples of a folder of shards, in order."""
    samples_by_key: dict[str, Sample] = {}
    for path in sorted(folder.glob("shard-*.tar")):
        with tarfile.open(path) as tar:
            for entry in tar:
                key, _, extension = entry.name.partition(".")
                content = tar.extractfile(entry)
                samples_by_key.setdefault(key, Sample(key, {})).members[extension] = content.read() if content else b""
    return list(samples_by_key.values())


def card(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "card.yaml").read_text())


def cameras(folder: Path) -> dict[str, tuple[int, int]]:
    """Camera -> height and width, as the card has them."""
    return {c["name"]: (c["height"], c["width"]) for c in card(folder)["spec"]["cameras"]}


def levels(folder: Path, camera: str) -> list[int]:
    """The brightness of a camera's images, rounded."""
    return [round(brightness(sample.images[camera])) for sample in samples(folder)]


def instructions(folder: Path) -> list[str]:
    """The instruction of each episode's first step."""
    return [s.info["instruction"] for s in samples(folder) if s.info["step"] == 0]


def lengths(folder: Path) -> list[int]:
    """The number of steps of each episode."""
    return [s.info["length"] for s in samples(folder) if s.info["step"] == 0]


def questions(folder: Path) -> list[list[tuple[str, str]]]:
    """Question and answer pairs of each image."""
    return [[(q["question"], q["answer"]) for q in s.info["questions"]] for s in samples(folder)]
