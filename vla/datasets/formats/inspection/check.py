"""Whether a data set is whole: every record read, every picture decoded, checksums compared."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vla.datasets.formats.conventions.prepare import Changes, Dropped, prepare
from vla.datasets.formats.conventions.source_card import SourceCard
from vla.datasets.formats.images import decode, rgb
from vla.datasets.formats.notes import NAMED, REPORT
from vla.datasets.formats.readers.base import Reader, Ref, inside
from vla.datasets.formats.readers.tars import ShardsReader
from vla.datasets.formats.workers import pool
from vla.datasets.formats.writers.shards import sha256
from vla.datasets.questions import parse_questions
from vla.datasets.shards import encode_member
from vla.errors import UserError

TOGETHER = 16


@dataclasses.dataclass
class Findings:
    """What a check found.

    Attributes:
        records, steps, pictures: that are whole.
        left_out: records in which nothing is wrong but that give no sample (without instruction or picture).
        damaged: count of damaged records.
        problems: the first of them: where and what.
    """

    records: int = 0
    steps: int = 0
    pictures: int = 0
    left_out: int = 0
    damaged: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)

    def problem(self, error: UserError) -> None:
        self.damaged += 1
        if len(self.problems) < NAMED:
            self.problems.append(f"{error.where}: {error.what}")

    def add(self, other: Findings) -> None:
        for name in ("records", "steps", "pictures", "left_out", "damaged"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.problems += other.problems[: NAMED - len(self.problems)]


def verify(
    reader: Reader, card: SourceCard, workers: int = 1, progress: Callable[[int, int], None] = lambda done, all: None
) -> Findings:
    """Reads everything. Damaged records are counted and named, and the others are still read."""
    findings = Findings()
    for problem in checksums(reader.path):
        findings.problem(problem)
    refs = reader.refs()
    groups = [refs[k : k + TOGETHER] for k in range(0, len(refs), TOGETHER)]
    progress(0, len(refs))
    if workers < 2 or len(groups) < 2:
        for done, group in enumerate(groups, 1):
            findings.add(_group(reader, card, group))
            progress(min(done * TOGETHER, len(refs)), len(refs))
        return findings
    with pool(workers, _begin, reader, card) as processes:
        for done, found in enumerate(processes.map(_in_worker, groups), 1):
            findings.add(found)
            progress(min(done * TOGETHER, len(refs)), len(refs))
    return findings


_STATE: tuple[Reader, SourceCard] | None = None


def _begin(reader: Reader, card: SourceCard) -> None:
    global _STATE
    _STATE = reader, card


def _in_worker(refs: list[Ref]) -> Findings:
    assert _STATE is not None
    return _group(*_STATE, refs)


def _group(reader: Reader, card: SourceCard, refs: list[Ref]) -> Findings:
    findings = Findings()
    for ref in refs:
        try:
            if ref.damage:
                raise UserError(ref.damage, ref.name)
            one = _question(reader, card, ref) if reader.kind == "questions" else _robot(reader, card, ref)
            findings.add(one)
        except Dropped:
            findings.left_out += 1
        except UserError as error:
            findings.problem(error)
    return findings


def _robot(reader: Reader, card: SourceCard, ref: Ref) -> Findings:
    episode = prepare(reader.read(ref), card, Changes(text="unsaid"), ref.name)
    limits = {c.name: (c.height, c.width) for c in reader.dataset_card.spec.cameras} if isinstance(reader, ShardsReader) else {}
    count = 0
    for name, (frames, rows) in episode.images.items():
        shape = limits.get(name)
        for row, frame in zip(rows, frames.rows(rows.tolist()), strict=True):
            shape = _picture(frame, f"{ref.name}, {name}, step {row}", shape)
            count += 1
    return Findings(1, len(episode), count)


def _question(reader: Reader, card: SourceCard, ref: Ref) -> Findings:
    raw = reader.read(ref)
    parse_questions(encode_member("json", {"questions": raw["questions"]}), ref.name)
    for camera in card.cameras.values():
        for frame in raw[camera.key].rows([0]):
            _picture(frame, ref.name, None)
    return Findings(1, 0, len(card.cameras))


def _picture(frame: Any, where: str, shape: tuple[int, int] | None) -> tuple[int, int]:
    """Decodes a picture; UserError if it is damaged, or of another size than those before it."""
    pixels = frame if isinstance(frame, np.ndarray) else decode(frame, where)
    found = rgb(pixels, where).shape[:2]
    if shape not in (None, found):
        raise UserError(f"the picture is {found[0]} x {found[1]}, not {shape[0]} x {shape[1]}", where)
    return found


def checksums(folder: Path) -> list[UserError]:
    """Files that are not as the conversion wrote them, or not there."""
    try:
        said = json.loads((folder / REPORT).read_bytes())["sha256"].items()
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []
    problems = []
    for name, expected in said:
        try:
            path = inside(folder, name, f"{folder}/{REPORT}")
            if not path.is_file():
                raise UserError("the file is missing", str(folder / name))
            if sha256(path) != expected:
                raise UserError("its checksum is not the one that was written", str(folder / name))
        except UserError as error:
            problems.append(error)
    return problems
