"""The record of an offline evaluation, `results.json` of kind "offline", and what it says in words."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla.errors import UserError
from vla.report.intervals import Rate, percent
from vla.report.json_values import finite
from vla.report.records import FILE

KIND = "offline"
BASELINES = {
    "mean": "the mean action",
    "last": "the last action repeated",
    "nearest": "the actions after the nearest recorded state",
}
"""Baseline -> what it does, as a sentence names it."""


@dataclasses.dataclass(frozen=True)
class OfflineRecord:
    """One policy's offline evaluation on one data set.

    Attributes:
        data: title and fingerprint of the data set; records of different data are no pairs.
        policy: the policy, as the user named it.
        contract: hash of the policy's contract; None if the policy does not say it.
        execute: actions executed of each chunk.
        decode: the contract's statistic.
        summary: the numbers, see `vla.evaluation.offline.run`.
        episodes: one line per demonstration: `episode`, `first`, `instruction`, `fingerprint`, `calls`, `malformed`, and
            `error` [T, V], absolute errors in half ranges.
        more: further keys, kept as they are.
        source: the folder or file that the record was read from; not written.
    """

    data: dict[str, str]
    policy: str
    contract: str | None
    execute: int
    decode: str
    summary: dict[str, Any]
    episodes: list[dict[str, Any]]
    more: dict[str, Any] = dataclasses.field(default_factory=dict)
    source: str = ""

    def save(self, folder: str | Path) -> Path:
        """Writes results.json atomically."""
        path = Path(folder) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("more", "source")}
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        content = finite({"kind": KIND, **own, **self.more})
        unfinished.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
        unfinished.replace(path)
        return path


def load_offline(path: str | Path) -> OfflineRecord:
    """Reads a record from its folder or its file.

    Raises:
        UserError: it is missing, not JSON, or lacks a key.
    """
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {error}", str(file), "give the folder that `vla evaluate --out` wrote") from error
    names = [f.name for f in dataclasses.fields(OfflineRecord) if f.name not in ("more", "source")]
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind != KIND or (missing := [name for name in names if name not in data]):
        what = f"`{missing[0]}` is missing" if kind == KIND else f"not a record of kind {KIND!r}"
        raise UserError(what, str(file), "give the folder that `vla evaluate --out` wrote")
    more = {key: value for key, value in data.items() if key not in (*names, "kind")}
    return OfflineRecord(**{name: data[name] for name in names}, more=more, source=str(path))


def verdict(summary: Mapping[str, Any]) -> str:
    """Returns whether the policy is closer to the demonstrations than every baseline, and in which dimensions it is far off."""
    n, error = summary["episodes"], summary["error"]
    if n < 2:
        return (
            f"One episode does not show whether the policy beats the baselines (error {error['policy']['rate']:.3f} half ranges)"
        )
    better = [name for name in BASELINES if summary["against"][name]["high"] < 0]
    numbers = f"{error['policy']['rate']:.3f} half ranges, {_others(error)}, over {n} episodes"
    opposite = _opposite(summary)
    if poor := [row["name"] for row in _poor(summary) if row["name"] not in opposite]:
        numbers += f". In {_and(poor)} it is worse than the mean action"
    if opposite:
        numbers += f". In {_and(opposite)} it mostly does the opposite of what was demonstrated: compare the signs in the data"
    if len(better) == len(BASELINES):
        return f"The policy beats all three baselines: its error is {numbers}"
    worse = [BASELINES[name] for name in BASELINES if summary["against"][name]["low"] > 0]
    even = [BASELINES[name] for name in BASELINES if name not in better and BASELINES[name] not in worse]
    outcomes = {"it is worse than": worse, "it cannot be told from": even}
    parts = [f"{words} {_and(names)}" for words, names in outcomes.items() if names]
    return f"The policy does not beat the baselines: {' and '.join(parts)}. Its error is {numbers}"


def findings(summary: Mapping[str, Any]) -> list[str]:
    """Returns what a user should look at, most important first."""
    lines = []
    for row in _poor(summary):
        errors = f"{row['half_ranges']:.2f} half ranges against {row['baselines']['mean']:.2f}"
        lines.append(f"{row['name']} is worse than its mean: {errors}")
    for row in summary["grippers"]:
        agreement = f"{row['name']} agrees with the demonstration in {percent(row['agreement'])} % of the steps"
        lines.append(f"{agreement}: it is mostly the opposite" if row["name"] in _opposite(summary) else agreement)
    if summary["malformed"]:
        lines.append(f"{summary['malformed']} of {summary['calls']} answers were malformed; the robot rests then")
    if (ratio := summary["jerk"]["ratio"]) is not None and ratio > 1.5:
        lines.append(f"actions are {ratio:.1f} times as jerky as the demonstrated ones")
    return lines


def held_out(summary: Mapping[str, Any]) -> str:
    """Returns the errors in one line, for a model card."""
    policy = summary["error"]["policy"]
    interval = f"{policy['rate']:.3f} ({policy['low']:.3f} to {policy['high']:.3f}) half ranges"
    errors = f"decoded error {interval} over {summary['episodes']} episodes; baselines: {_others(summary['error'])}"
    return f"{errors}; {answered(summary['questions'])}" if summary.get("questions") else errors


def answered(questions: Mapping[str, Any]) -> str:
    """Returns the share of correct answers by type of question in one line, each with n and its interval of 95 %."""
    return "correct answers: " + ", ".join(f"{kind} {Rate(**one)}" for kind, one in questions.items())


def text(summary: Mapping[str, Any]) -> str:
    """Returns verdict, findings and the table of dimensions as text."""
    name, unit = (max(len(row[key]) for row in summary["dimensions"]) for key in ("name", "unit"))
    name, unit = max(name, 13), max(unit, 7)
    header = f"{'':<{name}}{'error':>13} {'unit':<{unit}}{'half ranges':>13}" + "".join(f"{one:>10}" for one in BASELINES)
    rows = [
        f"{row['name']:<{name}}{row['error']:>13.4g} {row['unit']:<{unit}}{row['half_ranges']:>13.3f}"
        + "".join(f"{row['baselines'][one]:>10.3f}" for one in BASELINES)
        for row in summary["dimensions"]
    ]
    asked = ["", answered(summary["questions"])] if summary.get("questions") else []
    return "\n".join([verdict(summary), *(f"- {line}" for line in findings(summary)), "", header, *rows, *asked])


def _poor(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The dimensions in which the policy is worse than the mean action; none if there is a single episode."""
    return [row for row in summary["dimensions"] if summary["episodes"] > 1 and row["difference"]["mean"]["low"] > 0]


def _opposite(summary: Mapping[str, Any]) -> list[str]:
    """The grippers that are worse than the mean action and agree with the demonstration in less than half of the steps."""
    poor = {row["name"] for row in _poor(summary)}
    return [row["name"] for row in summary["grippers"] if row["name"] in poor and row["agreement"] < 0.5]


def _others(error: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {error[name]['rate']:.3f}" for name in BASELINES)


def _and(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
