"""Pairs the episodes that all policies ran, in one order. Records that cannot be compared are refused."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vla.errors import UserError
from vla.report.records import EpisodeRecord, Key, Record


@dataclasses.dataclass(frozen=True)
class Paired:
    """The same episodes of several policies.

    Attributes:
        records: one record per policy.
        names: [P] short, distinct names for display.
        episodes: [P][N] episodes in the order of `interleaved`.
        left_out: [P] number of episodes of each record that another record lacks.
    """

    records: list[Record]
    names: list[str]
    episodes: list[list[EpisodeRecord]]
    left_out: list[int]

    def success(self, kind: str) -> np.ndarray:
        """Returns the outcomes of the episodes with this kind of instruction, bool [P, n]."""
        return np.array([[e.success for e in row if e.kind == kind] for row in self.episodes], bool)


def pair(records: Sequence[Record]) -> Paired:
    """Pairs records by (task, variation, seed, kind of instruction).

    Raises:
        UserError: there are fewer than two records, one is given twice, kinds or suites differ, episodes with one key have
            different initial states or instructions, or no episode is in all records.
    """
    if len(records) < 2:
        raise UserError(f"only {len(records)} record", "compare", "give two or more")
    for number, record in enumerate(records):
        if record.source and any(Path(record.source).resolve() == Path(r.source).resolve() for r in records[:number]):
            raise UserError("given twice", record.source, "give each record once")
    names = short_names([record.policy for record in records])
    if len(set(names)) < len(names):
        names = short_names([record.source or record.policy for record in records])
    first, tables = records[0], [{e.key: e for e in record.episodes} for record in records]
    for record, table in zip(records[1:], tables[1:], strict=True):
        _check(first, record, tables[0], table)
    common = [key for key in tables[0] if all(key in table for table in tables[1:])]
    if not common:
        raise UserError(
            "no episode in common",
            f"{_where(first)} and {', '.join(_where(r) for r in records[1:])}",
            "evaluate the policies on the same tasks, variations, seeds and kinds of instruction",
        )
    ordered = interleaved(common)
    episodes = [[table[key] for key in ordered] for table in tables]
    return Paired(list(records), names, episodes, [len(r.episodes) - len(common) for r in records])


def _check(first: Record, other: Record, ours: dict[Key, EpisodeRecord], theirs: dict[Key, EpisodeRecord]) -> None:
    where = f"{_where(first)} and {_where(other)}"
    if first.kind != other.kind:
        raise UserError(f"records of different kinds, {first.kind!r} and {other.kind!r}", where)
    if not _same_suite(first, other):
        raise UserError(
            f"different suites: {first.suite} ({first.suite_hash}) and {other.suite} ({other.suite_hash})",
            where,
            "evaluate both policies on the same version of the same suite",
        )
    both = [(episode, theirs[key]) for key, episode in ours.items() if key in theirs]
    for what, differ in (
        ("began in different states", [(a, a.state, b.state) for a, b in both if a.state != b.state]),
        ("had different instructions", [(a, a.instruction, b.instruction) for a, b in both if a.instruction != b.instruction]),
    ):
        if differ:
            episode, one, two = differ[0]
            raise UserError(
                f"{len(differ)} of {len(both)} episodes {what}, so they cannot be paired: {episode}: {one!r} and {two!r}",
                where,
                "run both evaluations with the same simulator, package versions and suite",
            )


def _same_suite(first: Record, other: Record) -> bool:
    """Whether two records are of the same suite, with any numbers of scenes.

    Earlier versions wrote no `scenes`, and their hash also depends on that number. Such a record is taken for one of a suite with
    its name and horizon: what else a suite says of an episode is in its key, state and instruction, which are compared as well.
    """
    if first.suite_hash == other.suite_hash:
        return True
    if "scenes" in first.more and "scenes" in other.more:
        return False
    return (first.suite, first.more.get("horizon")) == (other.suite, other.more.get("horizon"))


def _where(record: Record) -> str:
    return record.source or record.policy


def interleaved(keys: Sequence[Key]) -> list[Key]:
    """Returns the order in which to run, or read, episodes if one may stop early.

    Round r has the r-th episode of every (task, variation, kind), shuffled by a hash of the key. The order does not depend on
    outcomes, favours no task, and keeps its beginning when more episodes are added.
    """
    rounds, counts = {}, Counter()
    for key in keys:
        group = (key[0], key[1], key[3])
        rounds[key] = counts[group]
        counts[group] += 1
    return sorted(keys, key=lambda key: (rounds[key], hashlib.sha256(repr(key).encode()).digest()))


def short_names(paths: Sequence[str]) -> list[str]:
    """Returns the shortest parts of paths or addresses that tell them apart; the paths themselves if no parts do.

    A common ending is dropped, and so is the folder `export`, which every run has.
    """
    parts = [path.rstrip("/").split("/") for path in paths]
    parts = [part[:-1] if part[-1] == "export" and len(part) > 1 else part for part in parts]
    while len({part[-1] for part in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [part[:-1] for part in parts]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(paths)
