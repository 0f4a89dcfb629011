"""Compares policies by their decoded errors on the same held-out demonstrations."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla.errors import UserError
from vla.report.few_runs import interval
from vla.report.intervals import Rate
from vla.report.offline import OfflineRecord
from vla.report.pairing import short_names
from vla.report.settings import Settings, other_execute
from vla.report.wording import Table, aligned, settings_table


@dataclasses.dataclass(frozen=True)
class OfflinePair:
    """Two policies: mean error of the first minus mean error of the second, in half ranges, with its interval over episodes."""

    first: str
    second: str
    difference: Rate

    @property
    def separated(self) -> bool:
        return self.difference.low > 0 or self.difference.high < 0


@dataclasses.dataclass(frozen=True)
class OfflineComparison:
    """The result of `vla compare` for offline evaluations.

    Attributes:
        data: title of the data set.
        alpha: significance level; the pairs share it equally.
        names: the policies in the given order.
        episodes, steps: number of episodes that all policies were given, and of their steps.
        errors: error of each policy in half ranges, with its interval.
        pairs: every pair of them.
        dimensions: name of each varying dimension -> the policies' errors.
        settings: how the policies were evaluated.
        other_execute: policy -> how it was evaluated with another `execute` than its contract's.
        other_limits: policy -> dimensions for which its contract has other limits than the first policy's. Errors of all policies
            are in half ranges of the first one's limits.
    """

    data: str
    alpha: float
    names: list[str]
    episodes: int
    steps: int
    errors: list[Rate]
    pairs: list[OfflinePair]
    dimensions: dict[str, list[float]]
    settings: Settings
    other_execute: dict[str, str]
    other_limits: dict[str, list[str]]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def compare_offline(records: Sequence[OfflineRecord], alpha: float = 0.05) -> OfflineComparison:
    """Compares records, paired by episode and step. The bootstrap draws episodes.

    Raises:
        UserError: fewer than two records, one given twice, other data, fewer than two episodes in common, or other constant
            dimensions.
    """
    if not 0 < alpha < 1:
        raise UserError(f"alpha is {alpha}", "compare", "give a number between 0 and 1, e.g. 0.05")
    if len({Path(record.source).resolve() for record in records}) < max(len(records), 2):
        raise UserError("fewer than two different records", "compare", "give each record once")
    names = short_names([record.policy for record in records])
    if len(set(names)) < len(names):
        names = short_names([record.source for record in records])
    tables = [{(line["episode"], line["first"], line["fingerprint"]): line for line in record.episodes} for record in records]
    common = [key for key in tables[0] if all(key in table for table in tables[1:])]
    if len({episode for episode, *_ in common}) < 2:
        where = ", ".join(record.source for record in records)
        what = f"{len({episode for episode, *_ in common})} episodes in common"
        raise UserError(what, where, "evaluate the policies on the same data with the same --holdout and --episodes")
    columns = [[row["name"] for row in record.summary["dimensions"]] for record in records]
    for names_of_one, record in zip(columns, records, strict=True):
        if names_of_one != columns[0]:
            what = f"errors of {', '.join(columns[0])} and of {', '.join(names_of_one)}"
            where = f"{records[0].source} and {record.source}"
            raise UserError(what, where, "compare policies whose contracts have the same constant dimensions")
    scales = [_half_ranges(record) / _half_ranges(records[0]) for record in records]
    scales = [np.where(np.isclose(scale, 1) | np.isnan(scale), 1.0, scale) for scale in scales]
    errors = [[one * scale for one in _by_episode(table, common)] for table, scale in zip(tables, scales, strict=True)]
    means = np.array([[one.mean() for one in row] for row in errors])
    indices = list(itertools.combinations(range(len(records)), 2))
    level = 1 - alpha / len(indices)
    scaled = {name: np.flatnonzero(scale != 1) for name, scale in zip(names, scales, strict=True)}
    return OfflineComparison(
        data=records[0].data["title"],
        alpha=alpha,
        names=names,
        episodes=len(errors[0]),
        steps=sum(len(one) for one in errors[0]),
        errors=[_mean(row, 1 - alpha) for row in means],
        pairs=[OfflinePair(names[i], names[j], _mean(means[i] - means[j], level)) for i, j in indices],
        dimensions={
            name: [float(np.mean([one[:, i].mean() for one in row])) for row in errors] for i, name in enumerate(columns[0])
        },
        settings=Settings.of(records),
        other_execute={name: other for name, record in zip(names, records, strict=True) if (other := other_execute(record))},
        other_limits={name: [columns[0][i] for i in found] for name, found in scaled.items() if len(found)},
    )


def _half_ranges(record: OfflineRecord) -> np.ndarray:
    """Half the distance between the limits of each varying dimension, [V]; NaN where no error tells it."""
    pairs = ((row["error"], row["half_ranges"]) for row in record.summary["dimensions"])
    return np.array([error / share if share else np.nan for error, share in pairs])


def _by_episode(lines: dict[tuple[int, int, str], dict[str, Any]], keys: Sequence[tuple[int, int, str]]) -> list[np.ndarray]:
    """The errors [T, V] of each episode; parts of one are joined."""
    parts: dict[int, list[np.ndarray]] = {}
    for key in keys:
        parts.setdefault(key[0], []).append(np.array(lines[key]["error"]))
    return [np.concatenate(each) for each in parts.values()]


def _mean(values: np.ndarray, level: float) -> Rate:
    return interval(lambda drawn: float(drawn.mean()), values[:, None], level=level)


def verdict(c: OfflineComparison) -> str:
    """Returns one sentence: which policy is closest to the demonstrations, as far as the data show it."""
    order = np.argsort([one.rate for one in c.errors]).tolist()
    best, rest = c.names[order[0]], [c.names[i] for i in order[1:]]
    beaten = [name for name in rest if any({p.first, p.second} == {best, name} and p.separated for p in c.pairs)]
    if not beaten:
        return f"The data do not separate {best} from {', '.join(rest)}"
    return f"{best} is closer to the demonstrations than {', '.join(beaten)}"


def sentences(c: OfflineComparison) -> list[str]:
    """Returns the findings beside the verdict."""
    lines = [
        f"{p.first} minus {p.second}: {p.difference.rate:+.3f} half ranges ({p.difference.low:+.3f} to {p.difference.high:+.3f})."
        for p in c.pairs
    ]
    lines.append(
        f"Paired by episode and step over {c.episodes} held-out episodes; intervals draw episodes. A decoded error says how "
        "close actions are to demonstrated ones, not whether the task succeeds."
    )
    for name, dimensions in c.other_limits.items():
        differ = f"The contract of {name} has other limits of {', '.join(dimensions)}"
        lines.append(f"{differ}: all errors are in half ranges of the limits of {c.names[0]}.")
    lines += [f"{name} was not evaluated as it is exported: {other}." for name, other in c.other_execute.items()]
    return [*lines, c.settings.sentence()] if c.settings.conditions else lines


def tables(c: OfflineComparison) -> list[Table]:
    """Returns the errors, the errors by dimension, and the settings that differ."""
    rates = [[n, f"{e.rate:.3f}", f"{e.low:.3f} to {e.high:.3f}"] for n, e in zip(c.names, c.errors, strict=True)]
    rows = [[name, *(f"{value:.3f}" for value in values)] for name, values in c.dimensions.items()]
    result = [
        Table("Errors", "half ranges, with the interval over episodes", ["", "error", "interval"], rates),
        Table("Dimensions", "error in half ranges", ["", *c.names], rows),
    ]
    return result + settings_table(c.settings, c.names)


def text(c: OfflineComparison) -> str:
    """Returns the whole comparison as text for a terminal."""
    head = f"{c.data}: {c.episodes} paired episodes, {c.steps} steps"
    blocks = [head, f"{verdict(c)}.", "\n".join(f"- {s}" for s in sentences(c))]
    blocks += [f"{table.title}\n{aligned(table)}" for table in tables(c)]
    return "\n\n".join([*blocks, *(f"{title}: {line}" for title, line in c.settings.facts().items())])
