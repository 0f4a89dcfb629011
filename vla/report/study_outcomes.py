"""The outcomes of a study's cells on one suite as tables, in which every seed meets the same scenes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from vla.errors import UserError
from vla.report.records import Key
from vla.report.study import CellRecord, Scenes


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """Tables of outcomes [seeds, scenes], bool."""

    success: np.ndarray
    executed: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, cells: Sequence[CellRecord], suite: str, keys: Sequence[Key]) -> Outcomes:
        """Reads them from the cells' records, in the order of the keys."""
        rows = [_by_key(cell.suites[suite].groups) for cell in cells]
        table = np.array([[row[key][:3] for key in keys] for row in rows], bool).reshape(len(cells), len(keys), 3)
        return cls(table[..., 0], table[..., 1], table[..., 2])


def _by_key(groups: Sequence[Scenes]) -> dict[Key, tuple[bool, bool, bool, str]]:
    """Key -> whether it succeeded, was executed, was right; and the scene's hash."""
    return {
        key: (success == "1", executed == "1", right == "1", scene)
        for group in groups
        for key, success, executed, right, scene in zip(
            group.keys, group.success, group.executed, group.right, group.scenes.split(), strict=True
        )
    }


def common_keys(suite: str, kind: str, cells: Sequence[CellRecord]) -> list[Key]:
    """Returns the keys of the episodes with one kind of instruction that every cell ran.

    Raises:
        UserError: there is none, or one began differently in two cells.
    """
    tables = [{key: one for key, one in _by_key(cell.suites[suite].groups).items() if key[3] == kind} for cell in cells]
    common = [key for key in tables[0] if all(key in table for table in tables)]
    for cell, table in zip(cells[1:], tables[1:], strict=True):
        if other := [key for key in common if table[key][3] != tables[0][key][3]]:
            what = f"{len(other)} episodes of {suite} began otherwise than those of {cells[0].name}, first {other[0]}"
            raise UserError(what, cell.name, "evaluate both with the same simulator and package versions")
    if not common:
        raise UserError(f"no episode of {suite} with the {kind} instruction is in all cells", "study", "run the cells again")
    return common


def failures_of(cells: Sequence[CellRecord], suite: str, kind: str) -> dict[str, int]:
    """Returns class of failure -> number of episodes with one kind of instruction, over all cells."""
    counts: Counter[str] = Counter()
    for group in (group for cell in cells for group in cell.suites[suite].groups if group.kind == kind):
        counts.update(group.failures)
    return dict(sorted(counts.items()))
