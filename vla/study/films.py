"""Films of scenes that separate two arms: the same scene and instruction, one arm succeeds and the other fails."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vla.evaluation.films import film_name
from vla.evaluation.journal import EPISODES
from vla.evaluation.run import evaluate
from vla.report.records import Key
from vla.report.study import CellRecord
from vla.report.study_comparison import StudyComparison
from vla.report.video import caption, read_video, side_by_side, write_video
from vla.sim.registry import embodiment_of
from vla.study.cell import Cell

FILMS = "films"
"""Folder of the films in a study's."""


@dataclasses.dataclass(frozen=True)
class Separating:
    """A scene in which one of two cells succeeded and the other failed."""

    suite: str
    key: Key
    winner: CellRecord
    loser: CellRecord

    @property
    def path(self) -> Path:
        """Where its film is, within the study's folder. It depends on both trainings."""
        weights = f"{self.winner.training['weights']} {self.loser.training['weights']}"
        words = "-".join([self.suite, *map(str, self.key), self.winner.name, self.loser.name])
        return Path(FILMS) / f"{re.sub('[^A-Za-z0-9]+', '-', words)}-{hashlib.sha256(weights.encode()).hexdigest()[:8]}.mp4"


def make_films(
    c: StudyComparison, records: Sequence[CellRecord], cells: Mapping[str, Cell], out: Path, count: int
) -> list[dict[str, Any]]:
    """Films scenes that separate an arm from the baseline, if their policies are on this machine.

    Args:
        cells: those of the study by name.
        out: the study's folder.
        count: number of scenes.

    Returns:
        the films as the page takes them, earlier ones that still hold included.
    """
    possible = (one for one in separating(c, records) if (out / one.path).is_file() or _here(one, cells))
    chosen = list(itertools.islice(possible, count))
    todo: dict[tuple[str, str], set[Key]] = {}
    for one in chosen:
        if not (out / one.path).is_file():
            for record in (one.winner, one.loser):
                todo.setdefault((record.name, one.suite), set()).add(one.key)
    for (name, suite), keys in todo.items():
        cell = cells[name]
        print(f"[films] {name}, {suite}: {len(keys)} scenes", flush=True)
        # An episode that is run again takes the same course.
        evaluate(dataclasses.replace(cell.options(suite), film=frozenset(keys)))
    for one in chosen:
        if not (out / one.path).is_file():
            _write(one, cells, out / one.path)
    return [_described(one) for one in chosen]


def separating(c: StudyComparison, records: Sequence[CellRecord]) -> Iterator[Separating]:
    """Yields scenes in which a cell and the baseline's of the same seed differ in success.

    Every arm and suite has its turn: first those in which the arm succeeds and the baseline fails, then the opposite.
    """
    groups = []
    for opposite, suite in itertools.product((False, True), c.suites):
        for arm in (arm.name for arm in c.arms if arm.name != c.baseline):
            groups.append(_of_arm(arm, c.baseline, suite.name, suite.kind, records, opposite))
    for turn in itertools.zip_longest(*groups):
        yield from (one for one in turn if one is not None)


def _of_arm(
    arm: str, baseline: str, suite: str, kind: str, records: Sequence[CellRecord], opposite: bool
) -> Iterator[Separating]:
    by_seed = {record.seed: record for record in records if record.arm == baseline and suite in record.suites}
    for record in records:
        if record.arm != arm or suite not in record.suites or record.seed not in by_seed:
            continue
        winner, loser = (by_seed[record.seed], record) if opposite else (record, by_seed[record.seed])
        failed = {key for key, success in _successes(loser, suite, kind) if not success}
        won = [key for key, success in _successes(winner, suite, kind) if success and key in failed]
        yield from (Separating(suite, key, winner, loser) for key in won)


def _successes(record: CellRecord, suite: str, kind: str) -> list[tuple[Key, bool]]:
    groups = [group for group in record.suites[suite].groups if group.kind == kind]
    return [(key, digit == "1") for group in groups for key, digit in zip(group.keys, group.success, strict=True)]


def _here(one: Separating, cells: Mapping[str, Cell]) -> bool:
    """Whether both policies, and their evaluations, are on this machine."""
    own = [cells[record.name] for record in (one.winner, one.loser) if record.name in cells]
    return len(own) == 2 and all(cell.is_here() and (cell.evaluation(one.suite) / EPISODES).is_file() for cell in own)


def _write(one: Separating, cells: Mapping[str, Cell], path: Path) -> None:
    sides = []
    for record in (one.winner, one.loser):
        frames = read_video(cells[record.name].evaluation(one.suite) / film_name(one.key))
        sides.append([caption(frame, [record.arm]) for frame in frames])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, side_by_side(*sides), fps=embodiment_of(one.key[0])[1].control_hz)


def _described(one: Separating) -> dict[str, Any]:
    task, variation, seed, _ = one.key
    return {
        "path": one.path.as_posix(),
        "title": f"{one.winner.arm} succeeds, {one.loser.arm} fails",
        "note": f"{one.suite}: {task}, {variation}, scene {seed}; trainings with seed {one.winner.seed}",
    }
