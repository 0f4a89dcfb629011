"""Describes a data set, in words and by statistics."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vla.datasets.formats.conventions.prepare import Changes, Dropped, PreparedEpisode, prepare
from vla.datasets.formats.conventions.source_card import CONVENTIONS, SourceCard
from vla.datasets.formats.readers.base import Reader, Ref
from vla.datasets.formats.statistics import schemes
from vla.datasets.statistics import VARIES
from vla.errors import UserError

SCHEMES = ("openvla", "openpi", "openpi-padded", "lerobot", "lerobot-mean")


def inspect(reader: Reader, card: SourceCard) -> dict[str, Any]:
    """Format, records, features, and their meaning by the card. Reads descriptions and at most one record."""
    refs = reader.refs_for(card)
    damaged = [ref for ref in refs if ref.damage]
    description: dict[str, Any] = {"format": reader.format, "kind": reader.kind, "records": len(refs)}
    if damaged:
        description["known to be damaged"] = {"count": len(damaged), "first": f"{damaged[0].name}: {damaged[0].damage}"}
    description |= reader.about()
    description["splits"] = {
        name: len(records) if records is not None else len(refs) for name, records in reader.splits().items()
    }
    description["cameras"] = {name: f"{camera.key}, {card.upright(name)}" for name, camera in card.cameras.items()}
    for space in ("action", "state"):
        description[space] = [
            n + (f" ({u})" if u else "") for p in getattr(card, space) for n, u in zip(p.names, p.all_units, strict=True)
        ]
    description["conventions"] = {name: card.convention(name) for name in CONVENTIONS}
    description["card"] = card.verified if card.stated is None else "none"
    return description


def episodes(
    reader: Reader, card: SourceCard, skipped: list[str], progress: Callable[[int, int], None]
) -> Iterator[PreparedEpisode]:
    """Every robot record, prepared, without its images. Unreadable records are added to `skipped`."""
    refs = reader.refs_for(card)
    for number, ref in enumerate(refs):
        progress(number, len(refs))
        try:
            yield _episode(reader, card, ref)
        except Dropped as reason:
            skipped.append(f"{ref.name}: {reason}")
        except UserError as error:
            skipped.append(f"{error.where}: {error.what}")
    progress(len(refs), len(refs))


def _episode(reader: Reader, card: SourceCard, ref: Ref) -> PreparedEpisode:
    if ref.damage:
        raise UserError(ref.damage, ref.name)
    return prepare(reader.read(ref), card, Changes(text="unsaid"), ref.name)


def statistics(
    reader: Reader, card: SourceCard, scheme: str, progress: Callable[[int, int], None] = lambda done, all: None
) -> dict[str, Any]:
    """Statistics of action and state by a scheme, with constant dimensions and the records that could not be read.

    Raises:
        UserError: the scheme is unknown, the data are images with questions, or no record can be read.
    """
    if scheme not in SCHEMES:
        raise UserError(f"unknown scheme {scheme!r}", "--scheme", f"use one of {', '.join(SCHEMES)}")
    if reader.kind != "robot":
        raise UserError("images with questions have no actions", str(reader.path))
    skipped: list[str] = []
    spaces = {"action": Spool(), "state": Spool()}
    for episode in episodes(reader, card, skipped, progress):
        for name, spool in spaces.items():
            spool.add(getattr(episode, name))
    count = len(spaces["action"].shapes)
    if not count:
        raise UserError("no record can be read", str(reader.path), skipped[0] if skipped else "")
    result: dict[str, Any] = {"scheme": scheme, "episodes": count, "steps": sum(n for n, _ in spaces["action"].shapes)}
    for space, spool in spaces.items():
        parts = getattr(card, space)
        names = [name for part in parts for name in part.names]
        if not names:
            continue
        computed = _computed(scheme, spool, [part.role != "gripper" for part in parts for _ in part.names])
        constant = {n: float(a) for n, a, b in zip(names, spool.low, spool.high, strict=True) if b - a < VARIES}
        result[space] = {"names": names, **{k: v.tolist() for k, v in computed.items()}, "constant": constant}
    return {**result, "not_read": skipped}


def in_their_file(result: dict[str, Any], name: str) -> dict[str, Any]:
    """The result of `statistics` in the layout of the scheme's project.

    That is OpenVLA's dataset_statistics.json, openpi's norm_stats.json or LeRobot's meta/stats.json.

    Args:
        result: the result of `statistics`.
        name: name of the data set, a key in OpenVLA's file.
    """
    action, state = ({k: v for k, v in result.get(s, {}).items() if k not in ("names", "constant")} for s in ("action", "state"))
    if result["scheme"] == "openvla":
        counts = {"num_transitions": result["steps"], "num_trajectories": result["episodes"]}
        return {name: {"action": action, **({"proprio": state} if state else {}), **counts}}
    if result["scheme"].startswith("openpi"):
        return {"norm_stats": {**({"state": state} if state else {}), "actions": action}}
    return {"action": action, **({"observation.state": state} if state else {})}


class Spool:
    """Values [N, D] of episodes in a temporary file, for repeated iteration, one episode at a time."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed with this object
        self.shapes: list[tuple[int, int]] = []
        self.low, self.high = np.array(np.inf), np.array(-np.inf)

    def add(self, values: np.ndarray) -> None:
        """Appends an episode's values, float32 [N, D]."""
        self.file.write(values.tobytes())
        self.shapes.append((values.shape[0], values.shape[1]))
        self.low, self.high = np.minimum(self.low, values.min(0)), np.maximum(self.high, values.max(0))

    def __iter__(self) -> Iterator[np.ndarray]:
        offset = 0
        for rows, columns in self.shapes:
            data = os.pread(self.file.fileno(), 4 * rows * columns, offset)
            offset += len(data)
            yield np.frombuffer(data, np.float32).reshape(rows, columns)


def _computed(scheme: str, chunks: Spool, normalised: list[bool]) -> schemes.Statistics:
    """Statistics of episodes' values by a scheme."""
    if scheme == "openvla":
        return schemes.openvla(lambda: iter(chunks), normalised)
    if scheme.startswith("openpi"):
        return schemes.openpi(chunks, padded=scheme == "openpi-padded")
    return schemes.lerobot(map(schemes.lerobot_episode, chunks), weighted=scheme == "lerobot-mean")
