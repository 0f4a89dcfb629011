"""The record of an evaluation, `results.json`: what was run and how every episode went. This module defines the format."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from vla.errors import UserError
from vla.report.json_values import Json, finite

FILE = "results.json"
KINDS = ("rollout",)
"""Kinds of record; the kind selects the statistics of a comparison. "rollout": episodes that succeed or fail."""

RUN_KEYS = ("seconds", "restarts")
"""Further keys of an episode that describe one run of it: another run of the same evaluation has other values."""

Key = tuple[str, str, int, str]
"""Identifies an episode: task, variation, seed, kind of instruction."""


def episode_key(task: str, variation: str, seed: int, kind: str) -> Key:
    """Returns the key of an episode."""
    return task, variation, seed, kind


@dataclasses.dataclass(frozen=True)
class EpisodeRecord:
    """How one episode went.

    Attributes:
        task, variation: names in the suite.
        seed: of the scene and the start.
        kind: kind of instruction: "correct", "swapped", "empty", "nonsense" …
        instruction: the instruction's text, as the suite words it.
        state: hash of the initial simulator state; equal episodes of two policies have equal hashes.
        steps: number of steps taken.
        failure: class of failure; "" for a success, and for a failure that was not classified.
        more: further keys of the line, kept as they are. `vla rollout` writes `objects`, `target`, `first`, `executed`,
            `malformed`, on the tabletop `other_tasks` and, in episodes.jsonl only, `seconds` and `restarts`.
    """

    task: str
    variation: str
    seed: int
    kind: str
    instruction: str
    state: str
    success: bool
    steps: int
    failure: str
    more: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> Key:
        """Identifies the episode; see `Key`."""
        return episode_key(self.task, self.variation, self.seed, self.kind)

    @property
    def target(self) -> str:
        """What the episode asks for, in short; "" if nothing."""
        return self.more.get("target", "")

    @property
    def first(self) -> str:
        """What was done first, in short; "" if nothing."""
        return self.more.get("first", "")

    @property
    def executed(self) -> bool:
        """Whether anything was done, right or wrong."""
        return bool(self.more.get("executed", False))

    @property
    def other_tasks(self) -> list[str] | None:
        """Reached goals of other tasks than the one asked for, as "task: goal in short"; None if they were not noted."""
        return self.more.get("other_tasks")

    @property
    def malformed(self) -> int:
        """Number of the policy's answers that were not a complete chunk of actions."""
        return self.more.get("malformed", 0)

    def __str__(self) -> str:
        return f"{self.task} / {self.variation}, seed {self.seed}, {self.kind} instruction"

    def to_dict(self) -> dict[str, Any]:
        """Returns the episode's line as JSON holds it."""
        return {**_fields(self), **finite(self.more)}

    def without_run(self) -> EpisodeRecord:
        """Returns the episode without `RUN_KEYS`: the same for every run of the same evaluation."""
        more = {key: value for key, value in self.more.items() if key not in RUN_KEYS}
        return EpisodeRecord(**_fields(self), more=more)


@dataclasses.dataclass(frozen=True)
class Record:
    """One policy's evaluation on one suite.

    Attributes:
        suite, suite_hash: the suite's name and the hash of its content.
        policy: the policy, as the user named it.
        contract: hash of the policy's contract; None if it has none (the scripted expert).
        batch: declared shape of the policy's batches, part of the result's identity.
        versions: versions of the packages that can change a result.
        episodes: episodes in the order of the suite.
        kind: one of `KINDS`.
        more: further keys (summaries, times), kept as they are.
        source: the folder or file that the record was read from; not written.
    """

    suite: str
    suite_hash: str
    policy: str
    contract: str | None
    batch: list[int]
    versions: dict[str, str]
    episodes: list[EpisodeRecord]
    kind: str = "rollout"
    more: dict[str, Any] = dataclasses.field(default_factory=dict)
    source: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as JSON holds it; numbers in `more` that are not finite (a rate of no trials) become null."""
        head = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("episodes", "more", "source")}
        lines = [episode.to_dict() for episode in self.episodes]
        return {"kind": head.pop("kind"), **head, **finite(self.more), "episodes": lines}

    def save(self, folder: str | Path) -> Path:
        """Writes results.json atomically; creates the folder if it does not exist.

        Raises:
            UserError: the record does not keep to the format, so that it could not be read again.
        """
        path = Path(folder) / FILE
        data = self.to_dict()
        parse(data, str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        unfinished.replace(path)
        return path


def load(path: str | Path) -> Record:
    """Reads a record from its folder or its file.

    Raises:
        UserError: there is no record, it is not JSON, or it does not keep to the format; the error names file and key.
    """
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"no {FILE} in this folder" if path.is_dir() else "no such record", str(path), f"give a folder that has a {FILE}"
        )
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}", str(file), "evaluate again, or give another file") from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", str(file)) from error
    return dataclasses.replace(parse(data, str(file)), source=str(path))


def parse(data: Json, where: str) -> Record:
    """Makes a record from parsed JSON.

    Raises:
        UserError: a key is missing or has the wrong type, a number is not finite, or an episode occurs twice; the error names the
            key.
    """
    if not isinstance(data, dict):
        raise UserError("not a JSON object", where)
    if "kind" not in data:
        raise UserError("`kind` is missing", where, "known: " + ", ".join(KINDS))
    if data["kind"] not in KINDS:
        raise UserError(f"unknown kind of record {data['kind']!r}", where, "known: " + ", ".join(KINDS))
    if key := _infinite_key(data):
        raise UserError(f"`{key}` is not a finite number", where, "write null for a value that was not measured")
    lines = data.get("episodes")
    if not isinstance(lines, list):
        raise UserError("`episodes` is missing" if lines is None else "`episodes` is not a list", where)
    episodes, first = [], {}
    for number, line in enumerate(lines):
        episode = parse_episode(line, where, f"episodes[{number}]")
        if episode.key in first:
            raise UserError(
                f"`episodes[{number}]` is episode {first[episode.key]} again ({episode})", where, "list each episode once"
            )
        if episode.success and episode.failure:
            raise UserError(f"`episodes[{number}]` is a success with failure {episode.failure!r}", where)
        first[episode.key] = number
        episodes.append(episode)
    return _build(Record, {**data, "episodes": episodes}, "", where)


def parse_episode(line: Json, where: str, prefix: str) -> EpisodeRecord:
    """Makes an episode from parsed JSON.

    Args:
        where: the file, for errors.
        prefix: where in the file the episode is; errors put it before the key.

    Raises:
        UserError: the line does not keep to the format.
    """
    if not isinstance(line, dict):
        raise UserError(f"`{prefix}` is not an object", where)
    return _build(EpisodeRecord, line, prefix, where)


T = TypeVar("T", Record, EpisodeRecord)


def _build(cls: type[T], data: Mapping[str, Any], prefix: str, where: str) -> T:
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls) if f.name not in ("more", "source")]
    for name in names:
        key = f"{prefix}.{name}" if prefix else name
        if name not in data:
            raise UserError(f"`{key}` is missing", where, f"required keys: {', '.join(names)}")
        if not _fits(data[name], hints[name]):
            hint = hints[name].__name__ if isinstance(hints[name], type) else str(hints[name])
            raise UserError(f"`{key}` is {data[name]!r}, not {_TYPES.get(hint, hint)}", where)
        if name in ("suite_hash", "policy", "state") and not data[name]:
            raise UserError(f"`{key}` is empty", where, "a comparison needs it")
    more = {key: value for key, value in data.items() if key not in names}
    return cls(**{name: data[name] for name in names}, more=more)


_TYPES = {
    "str": "a string",
    "int": "an integer",
    "bool": "true or false",
    "str | None": "a string or null",
    "list[int]": "a list of integers",
    "dict[str, str]": "an object of strings",
}


def _fits(value: Json, hint: type | types.UnionType | types.GenericAlias) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return any(_fits(value, one) for one in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(v, inner[0]) for v in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    # Not isinstance: a bool would pass as an integer.
    return type(value) is hint


def _infinite_key(value: Json, key: str = "") -> str:
    """Returns the key of a number that is not finite, "" if there is none."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else key
    if isinstance(value, dict):
        return next((inner for k, v in value.items() if (inner := _infinite_key(v, f"{key}.{k}".lstrip(".")))), "")
    if isinstance(value, list):
        return next((inner for i, v in enumerate(value) if (inner := _infinite_key(v, f"{key}[{i}]"))), "")
    return ""


def _fields(episode: EpisodeRecord) -> dict[str, Any]:
    return {f.name: getattr(episode, f.name) for f in dataclasses.fields(EpisodeRecord) if f.name != "more"}
