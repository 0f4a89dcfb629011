"""Writes tar files as other people's tools do, and LLaVA's and VQAv2's files."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from outside.pixels import encoded, level, plain

Member = tuple[str, bytes | str]
"""A name and its content."""


def tar(path: Path, members: Iterable[Member], **options: Any) -> Path:
    """Writes a tar file; options are tarfile.open's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, options.pop("mode", "w"), **options) as file:
        for name, content in members:
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    return path


def array(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def numbered_image(number: int, kind: str = "JPEG") -> bytes:
    """The image of a sample."""
    return encoded(plain(level(0, number)), kind)


def captions(count: int = 3, image: str = "jpg", text: str = "txt") -> list[Member]:
    """Images with captions, one member after the other."""
    return [m for n in range(count) for m in ((f"{n:06d}.{image}", numbered_image(n)), (f"{n:06d}.{text}", f"object {n}"))]


def robot(episodes: Mapping[int, int], info: Mapping[str, Any] | None = None) -> list[Member]:
    """Robot steps: an image, an action, a state and JSON each."""
    members: list[Member] = []
    for e, length in episodes.items():
        for t in range(length):
            key = f"e{e:03d}_{t:04d}"
            described = {"episode": e, "step": t, "instruction": f"lift object {e}", **(info or {})}
            members += [
                (f"{key}.front.jpg", encoded(plain(level(e, t)), "JPEG")),
                (f"{key}.action.npy", array(np.array([t / 10, e], np.float32))),
                (f"{key}.state.npy", array(np.array([t, e], np.float32))),
                (f"{key}.json", json.dumps(described)),
            ]
    return members


def conversation(number: int = 0) -> list[dict[str, str]]:
    return [{"from": "human", "value": f"<image>\nwhat is {number}?"}, {"from": "gpt", "value": f"object {number}"}]


def llava(folder: Path, entries: list[dict[str, Any]], name: str = "chat.json", images: int = 3) -> Path:
    """A list of conversations and images 0.jpg, 1.jpg … beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(images):
        (folder / f"{number}.jpg").write_bytes(numbered_image(number))
    path = folder / name
    path.write_text(json.dumps(entries))
    return path
