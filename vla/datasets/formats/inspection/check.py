"""Verifies a data set: reads every record, decodes every image, compares checksums."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

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
    """The result of a check.

    Attributes:
        records, steps, images: numbers of whole records, steps and images.
        left_out: number of intact records that give no sample (without instruction, image or steps).
        damaged: number of damaged records.
        problems: the first of them, as "where: what".
    """

    records: int = 0
    steps: int = 0
    images: int = 0
    left_out: int = 0
    damaged: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)

    def problem(self, error: UserError) -> None:
        self.damaged += 1
        if len(self.problems) < NAMED:
            self.problems.append(f"{error.where}: {error.what}")

    def add(self, other: Findings) -> None:
        for name in ("records", "steps", "images", "left_out", "damaged"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.problems += other.problems[: NAMED - len(self.problems)]


def verify(
    reader: Reader, card: SourceCard, workers: int = 1, progress: Callable[[int, int], None] = lambda done, all: None
) -> Findings:
    """Reads all records. Damaged ones are counted and named, and do not stop the check."""
    findings = Findings()
    for problem in checksums(reader.path):
        findings.problem(problem)
    refs = reader.refs_for(card)
    groups = [refs[k : k + TOGETHER] for k in range(0, len(refs), TOGETHER)]
    progress(0, len(refs))
    if workers < 2 or len(groups) < 2:
        for number, group in enumerate(groups, 1):
            findings.add(_check_group(reader, card, group))
            progress(min(number * TOGETHER, len(refs)), len(refs))
        return findings
    with pool(workers, _begin, reader, card) as processes:
        for number, group_findings in enumerate(processes.map(_in_worker, groups), 1):
            findings.add(group_findings)
            progress(min(number * TOGETHER, len(refs)), len(refs))
    return findings


_STATE: tuple[Reader, SourceCard] | None = None


def _begin(reader: Reader, card: SourceCard) -> None:
    global _STATE
    _STATE = reader, card


def _in_worker(refs: list[Ref]) -> Findings:
    assert _STATE is not None
    return _check_group(*_STATE, refs)


def _check_group(reader: Reader, card: SourceCard, refs: list[Ref]) -> Findings:
    findings = Findings()
    for ref in refs:
        try:
            if ref.damage:
                raise UserError(ref.damage, ref.name)
            check_record = _check_questions if reader.kind == "questions" else _check_episode
            findings.add(check_record(reader, card, ref))
        except Dropped:
            findings.left_out += 1
        except UserError as error:
            findings.problem(error)
    return findings


def _check_episode(reader: Reader, card: SourceCard, ref: Ref) -> Findings:
    episode = prepare(reader.read(ref), card, Changes(text="unsaid"), ref.name)
    sizes = {c.name: (c.height, c.width) for c in reader.dataset_card.spec.cameras} if isinstance(reader, ShardsReader) else {}
    count = 0
    for name, (frames, rows) in episode.images.items():
        size = sizes.get(name)
        for row, frame in zip(rows, frames.rows(rows.tolist()), strict=True):
            size = _check_image(frame, f"{ref.name}, {name}, step {row}", size)
            count += 1
    return Findings(1, len(episode), count)


def _check_questions(reader: Reader, card: SourceCard, ref: Ref) -> Findings:
    raw = reader.read(ref)
    parse_questions(encode_member("json", {"questions": raw["questions"]}), ref.name)
    for camera in card.cameras.values():
        for frame in raw[camera.key].rows([0]):
            _check_image(frame, f"{ref.name}, {camera.key}", None)
    return Findings(1, 0, len(card.cameras))


def _check_image(frame: bytes | np.ndarray, where: str, expected: tuple[int, int] | None) -> tuple[int, int]:
    """Decodes an image and returns its size; UserError if it is damaged or not of the expected size."""
    pixels = frame if isinstance(frame, np.ndarray) else decode(frame, where)
    size = rgb(pixels, where).shape[:2]
    if expected not in (None, size):
        raise UserError(f"the image is {size[0]} x {size[1]}, expected {expected[0]} x {expected[1]}", where)
    return size


def checksums(folder: Path) -> list[UserError]:
    """Errors for files that are missing or differ from those that the conversion wrote."""
    try:
        recorded = json.loads((folder / REPORT).read_bytes())["sha256"].items()
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []
    problems = []
    for name, expected in recorded:
        try:
            path = inside(folder, name, f"{folder}/{REPORT}")
            if not path.is_file():
                raise UserError("the file is missing", str(folder / name))
            if sha256(path) != expected:
                raise UserError("its checksum differs from that of the conversion", str(folder / name))
        except UserError as error:
            problems.append(error)
    return problems
