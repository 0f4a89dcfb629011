"""The record of an evaluation, `results.json`: what was run and how every episode went. This module is its format."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import types
import typing
from pathlib import Path
from typing import Any

from vla.errors import UserError

FILE = "results.json"
KINDS = ("rollout",)
"""What a record can hold; the kind picks the statistics of a comparison. "rollout": episodes that succeed or fail."""

RUN = ("seconds", "restarts")
"""Further keys of an episode that say how this run of it went."""

Key = tuple[str, str, int, str]
"""What makes two episodes the same one: task, variation, seed, kind of instruction."""


@dataclasses.dataclass(frozen=True)
class EpisodeRecord:
    """How one episode went.

    Attributes:
        task, variation: names in the suite.
        seed: of the scene and the start.
        kind: of the instruction: "correct", "swapped", "empty", "nonsense" …
        instruction: what the robot was told, as the suite words it.
        state: hash of the initial simulator state; equal episodes of two policies have equal hashes.
        steps: taken.
        failure: its class, "" for success and where nobody classified it.
        more: further keys of the line, kept as they are. Those of `vla rollout` are `objects`, `target`, `first`, `executed`,
            `malformed` and, in episodes.jsonl alone, `seconds` and `restarts`.
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
        """See `Key`."""
        return self.task, self.variation, self.seed, self.kind

    @property
    def target(self) -> str:
        """What should be done, in short; "" is nothing."""
        return self.more.get("target", "")

    @property
    def first(self) -> str:
        """What was done first, in short; "" is nothing."""
        return self.more.get("first", "")

    @property
    def executed(self) -> bool:
        """Whether something was done, the right thing or another."""
        return bool(self.more.get("executed", False))

    @property
    def malformed(self) -> int:
        """How many answers of the policy were no whole chunk."""
        return self.more.get("malformed", 0)

    def __str__(self) -> str:
        return f"{self.task} / {self.variation}, seed {self.seed}, {self.kind} instruction"

    def to_dict(self) -> dict[str, Any]:
        """The episode's line as JSON holds it."""
        return {**_named(self), **_null(self.more)}

    def without_run(self) -> EpisodeRecord:
        """The episode as another run of the same evaluation records it: not how long it took, not what workers went through."""
        more = {key: value for key, value in self.more.items() if key not in RUN}
        return EpisodeRecord(**_named(self), more=more)


@dataclasses.dataclass(frozen=True)
class Record:
    """One policy's evaluation on one suite.

    Attributes:
        suite, suite_hash: the suite's name and the hash of all that it says.
        policy: what was evaluated, as the user named it.
        contract: hash of its contract; None for one without (the scripted expert).
        batch: declared shape of the policy's batches, part of the result's identity.
        versions: of the packages that can change a result.
        episodes: in the order of the suite.
        kind: one of `KINDS`.
        more: further keys (summaries, times), kept as they are.
        source: the folder or file it was read from; not written.
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
        """The record as JSON holds it; numbers in `more` that are not finite (a rate of no trials) are null."""
        head = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("episodes", "more", "source")}
        lines = [episode.to_dict() for episode in self.episodes]
        return {"kind": head.pop("kind"), **head, **_null(self.more), "episodes": lines}

    def save(self, folder: str | Path) -> Path:
        """Writes results.json whole or not at all, and makes the folder where there is none.

        Raises:
            UserError: what would be written could not be read again.
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
        UserError: there is none, it is not JSON, or it does not keep to the format; file and key are named.
    """
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"no {FILE} in this folder" if path.is_dir() else "no such record", str(path), f"give a folder with a {FILE}"
        )
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}", str(file), "evaluate again, or give another file") from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", str(file)) from error
    return dataclasses.replace(parse(data, str(file)), source=str(path))


def parse(data: Any, where: str) -> Record:
    """A record from what JSON holds.

    Raises:
        UserError: a key is missing or of another type, a number is not finite, an episode is there twice; the key is named.
    """
    if not isinstance(data, dict):
        raise UserError("not a JSON object", where)
    if "kind" not in data:
        raise UserError("`kind` is missing", where, "a record says what it holds: " + ", ".join(KINDS))
    if data["kind"] not in KINDS:
        raise UserError(f"unknown kind of record {data['kind']!r}", where, "known: " + ", ".join(KINDS))
    if place := _infinite(data):
        raise UserError(f"`{place}` is not a finite number", where, "JSON has null for what was not measured")
    lines = data.get("episodes")
    if not isinstance(lines, list):
        raise UserError("`episodes` is missing" if lines is None else "`episodes` is not a list", where)
    episodes, first = [], {}
    for number, line in enumerate(lines):
        episode = parse_episode(line, where, f"episodes[{number}]")
        if episode.key in first:
            raise UserError(
                f"`episodes[{number}]` is episode {first[episode.key]} again ({episode})", where, "each episode counts once"
            )
        if episode.success and episode.failure:
            raise UserError(f"`episodes[{number}]` is a success with failure {episode.failure!r}", where)
        first[episode.key] = number
        episodes.append(episode)
    return _build(Record, {**data, "episodes": episodes}, "", where)


def parse_episode(line: Any, where: str, place: str) -> EpisodeRecord:
    """An episode from what JSON holds; UserError, which names the key at `place`, where it does not keep to the format."""
    return _build(EpisodeRecord, line, place, where)


def _build(cls: type, data: Any, place: str, where: str) -> Any:
    if not isinstance(data, dict):
        raise UserError(f"`{place}` is not an object", where)
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls) if f.name not in ("more", "source")]
    for name in names:
        key = f"{place}.{name}" if place else name
        if name not in data:
            raise UserError(f"`{key}` is missing", where, f"needed: {', '.join(names)}")
        if not _fits(data[name], hints[name]):
            hint = hints[name].__name__ if isinstance(hints[name], type) else str(hints[name])
            raise UserError(f"`{key}` is {data[name]!r}, not {_TYPES.get(hint, hint)}", where)
        if name in ("suite_hash", "policy", "state") and not data[name]:
            raise UserError(f"`{key}` is empty", where, "without it nobody can tell what was compared")
    more = {key: value for key, value in data.items() if key not in names}
    return cls(**{name: data[name] for name in names}, more=more)


_TYPES = {
    "str": "text",
    "int": "an integer",
    "bool": "true or false",
    "str | None": "text or null",
    "list[int]": "a list of integers",
    "dict[str, str]": "an object of texts",
}


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return any(_fits(value, one) for one in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(v, inner[0]) for v in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    # Not isinstance: true is no integer here.
    return type(value) is hint


def _infinite(value: Any, place: str = "") -> str:
    """Where a number is that is not finite, "" for nowhere."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else place
    if isinstance(value, dict):
        return next((p for k, v in value.items() if (p := _infinite(v, f"{place}.{k}".lstrip(".")))), "")
    if isinstance(value, list):
        return next((p for i, v in enumerate(value) if (p := _infinite(v, f"{place}[{i}]"))), "")
    return ""


def _null(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _null(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_null(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _named(episode: EpisodeRecord) -> dict[str, Any]:
    return {f.name: getattr(episode, f.name) for f in dataclasses.fields(EpisodeRecord) if f.name != "more"}
