"""Which cells of a study are done: from their records and folders. What was made with other settings is named, or put aside."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path

from vla.errors import UserError
from vla.report.records import Key
from vla.report.study import CellRecord, SuiteScenes, load_cells
from vla.report.study_comparison import changed
from vla.sim.suites import Suite
from vla.study.arms import PlannedArm
from vla.study.options import Study, all_cells

CELLS, RUNS = "cells", "runs"
"""Folders of a study: records, and the cells' own folders."""


@dataclasses.dataclass(frozen=True)
class State:
    """The cells of a study.

    Attributes:
        records: name -> record, of the cells that have one with the arm's present settings; of its suites, those that the study
            has, as it has them.
        changed: name -> what differs, of those that were trained with other settings or on other data.
        strangers: names of records of arms and seeds that the study does not have.
        lacking: name -> suites and questions that its record lacks.
    """

    records: dict[str, CellRecord]
    changed: dict[str, str]
    strangers: list[str]
    lacking: dict[str, list[str]]

    def without(self, other: Mapping[str, str]) -> State:
        """Returns the state in which these cells (name -> what differs) are changed ones."""
        records = {name: record for name, record in self.records.items() if name not in other}
        return dataclasses.replace(self, records=records, changed={**self.changed, **other})

    def done(self, name: str) -> bool:
        """Whether nothing of the cell is left to do."""
        return name in self.records and not self.lacking[name]


def state_of(study: Study, arms: Mapping[str, PlannedArm], suites: Mapping[str, Suite], questions: Iterable[str]) -> State:
    """Reads the records of a study.

    Raises:
        UserError: a file among them is not a record.
    """
    cells, asked = all_cells(study), list(questions)
    found = {record.name: record for record in load_cells(Path(study.out) / CELLS)}
    ours = {name: record for name, record in found.items() if name in cells}
    other = {name: record for name, record in ours.items() if record.config != arms[record.arm].config}
    records = {
        name: dataclasses.replace(described(record, arms[record.arm]), suites=present(record, suites, study.batch))
        for name, record in ours.items()
        if name not in other
    }
    return State(
        records={name: records[name] for name in cells if name in records},
        changed={name: changed(record.settings, arms[record.arm].settings) for name, record in other.items()},
        strangers=sorted(found.keys() - cells.keys()),
        lacking={name: lacking(record, suites, asked) for name, record in records.items()},
    )


def described(record: CellRecord, arm: PlannedArm) -> CellRecord:
    """Returns the record with the arm's present description, which no result depends on."""
    return dataclasses.replace(record, about=arm.arm.about, differs=list(arm.arm.differs), changes=arm.changes)


def present(record: CellRecord, suites: Mapping[str, Suite], batch: int) -> dict[str, SuiteScenes]:
    """Returns a cell's results on the study's suites, in their order, without those of other versions or another batch."""
    own = {name: record.suites[name] for name in suites if name in record.suites}
    return {name: one for name, one in own.items() if (one.suite_hash, one.batch) == (suites[name].hash, batch)}


def lacking(record: CellRecord, suites: Mapping[str, Suite], questions: Iterable[str]) -> list[str]:
    """Returns the names of questions that a cell was not asked, and of suites of which it did not run every scene."""
    few = [name for name, suite in suites.items() if name not in record.suites or _keys(suite) - record.suites[name].keys]
    return [*(name for name in questions if name not in record.questions), *few]


def _keys(suite: Suite) -> set[Key]:
    return {episode.key for episode in suite.all()}


def check_unchanged(state: State, study: Study) -> None:
    """Raises UserError if a cell was trained with other settings or on other data; the error names it and what differs."""
    if state.changed:
        name, what = next(iter(state.changed.items()))
        others = f" (and {len(state.changed) - 1} more)" if len(state.changed) > 1 else ""
        fix = "add --again to put it aside and run it again, or choose another out"
        raise UserError(f"the cell {name} was trained otherwise{others}: {what}", f"{study.out}/{CELLS}/{name}.json", fix)


def put_aside(study: Study, name: str) -> None:
    """Moves a cell's record and folder to the first free of before-1, before-2 … in the study's folder."""
    out = Path(study.out)
    parts = [path for path in (Path(CELLS) / f"{name}.json", Path(RUNS) / name) if (out / path).exists()]
    number = next(n for n in itertools.count(1) if not any((out / f"before-{n}" / path).exists() for path in parts))
    for path in parts:
        target = out / f"before-{number}" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        (out / path).rename(target)
        print(f"{out / path} is now {target}")
