"""The record of one cell of a study: one arm, trained with one seed, asked and rolled out.

A study's table and page are made of these records alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import typing
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla.errors import UserError
from vla.report.json_values import finite
from vla.report.records import EpisodeRecord, Key, Record, episode_key
from vla.report.study_plan import SourceData, TrainingPlan

KIND = "study"
CURVES = ("loss", "acc", "error", "l1", "valid_mass", "success")
"""Parts of the names of metrics whose curves a record has."""
Curves = dict[str, list[list[float]]]
"""Metric -> its steps and its values."""
Answers = dict[str, dict[str, str]]
"""Type of question -> "before" and "after" training, a digit for each question: 1 is a correct answer. "before" is "" where the
training began with random weights."""


@dataclasses.dataclass(frozen=True)
class Scenes:
    """How the scenes of one task, variation and kind of instruction went, in the order of their seeds.

    A digit stands for each scene: 1 where it holds, else 0.

    Attributes:
        seed: of the first scene; each further one adds 1.
        scenes: hashes of initial state and instruction, separated by spaces.
        success: digits: the right thing was done.
        executed: digits: anything was done.
        right: digits: the right thing was done first.
        failures: class of failure -> number of scenes.
    """

    task: str
    variation: str
    kind: str
    seed: int
    scenes: str
    success: str
    executed: str
    right: str
    failures: dict[str, int]

    @classmethod
    def of(cls, episodes: Sequence[EpisodeRecord]) -> Scenes:
        """Summarises episodes of one task, variation and kind, whose seeds follow one another."""
        first = episodes[0]
        return cls(
            task=first.task,
            variation=first.variation,
            kind=first.kind,
            seed=first.seed,
            scenes=" ".join(scene_hash(e) for e in episodes),
            success=_digits(e.success for e in episodes),
            executed=_digits(e.executed for e in episodes),
            right=_digits(e.executed and e.first == e.target for e in episodes),
            failures=dict(sorted(Counter(e.failure for e in episodes if e.failure).items())),
        )

    @property
    def keys(self) -> list[Key]:
        return [episode_key(self.task, self.variation, self.seed + i, self.kind) for i in range(len(self.success))]

    def check(self, where: str) -> None:
        """Raises UserError if it has not equally many digits of each sort and hashes."""
        lengths = {len(self.success), len(self.executed), len(self.right), len(self.scenes.split())}
        if len(lengths) > 1 or set(self.success + self.executed + self.right) - {"0", "1"}:
            what = f"{self.task} / {self.variation}, {self.kind} instruction: not a digit, 0 or 1, and a hash for each scene"
            raise UserError(what, where, "run the cell again")


@dataclasses.dataclass(frozen=True)
class SuiteScenes:
    """A cell's evaluation on one suite.

    Attributes:
        suite_hash: of the suite's content.
        batch: rows per call of the policy.
        seconds: that the episodes took, summed.
    """

    suite_hash: str
    about: str
    batch: int
    seconds: float
    groups: list[Scenes]

    @classmethod
    def of(cls, record: Record, batch: int) -> SuiteScenes:
        """Summarises an evaluation."""
        groups: dict[tuple[str, str, str], list[EpisodeRecord]] = {}
        for episode in record.episodes:
            groups.setdefault((episode.task, episode.variation, episode.kind), []).append(episode)
        seconds = round(record.more["run"]["episode_seconds"], 1)
        return cls(record.suite_hash, record.more.get("about", ""), batch, seconds, [Scenes.of(one) for one in groups.values()])

    @property
    def keys(self) -> set[Key]:
        return {key for group in self.groups for key in group.keys}


@dataclasses.dataclass(frozen=True)
class CellRecord:
    """One arm with one seed.

    Attributes:
        arm: name of the arm.
        seed: of its weights' start and of the order of its data.
        about: what the arm is, in a sentence.
        differs: in what it is declared to differ from the baseline besides its settings.
        config: hash of `settings`.
        settings: the settings of the training on which its result depends, the seed excepted.
        recipe: name of the recipe.
        changes: setting -> its value in the recipe and in the arm, as text.
        plan: what it was trained on.
        training: "seconds", "interrupted", "commit", "hardware", "versions", "weights" and "contract" (hashes).
        curves: what was logged.
        questions: name of a set of questions -> answers by type.
        suites: name of a suite -> how its scenes went.
        source: the file that it was read from; not written.
    """

    arm: str
    seed: int
    about: str
    differs: list[str]
    config: str
    settings: dict[str, Any]
    recipe: str
    changes: dict[str, list[str]]
    plan: TrainingPlan
    training: dict[str, Any]
    curves: Curves
    questions: dict[str, Answers]
    suites: dict[str, SuiteScenes]
    source: str = ""

    @property
    def name(self) -> str:
        return cell_name(self.arm, self.seed)

    def save(self, folder: str | Path) -> Path:
        """Writes ARM-SEED.json into the folder atomically."""
        path = Path(folder) / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"kind": KIND, **dataclasses.asdict(self)}
        del content["source"]
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        unfinished.write_text(_lines(finite(content)) + "\n", encoding="utf-8")
        unfinished.replace(path)
        return path


def cell_name(arm: str, seed: int) -> str:
    """Returns the name of a cell: ARM-SEED."""
    return f"{arm}-{seed}"


def scene_hash(episode: EpisodeRecord) -> str:
    """Returns a short hash of what an episode begins with: its state and its instruction."""
    return hashlib.sha256(f"{episode.state}\n{episode.instruction}".encode()).hexdigest()[:8]


def load_cells(folder: str | Path) -> list[CellRecord]:
    """Reads the records in a folder, in the order of their names.

    Raises:
        UserError: one of its .json files is not the record of a cell.
    """
    return [load_cell(path) for path in sorted(Path(folder).glob("*.json"))]


def load_cell(path: str | Path) -> CellRecord:
    """Reads the record of a cell.

    Raises:
        UserError: it is not JSON, or a key is missing or of the wrong type; the error names file and key.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"not the record of a cell: {error}", str(path), "remove it, and run the cell again") from None
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise UserError("not the record of a cell", str(path), "keep other files elsewhere")
    try:
        suites = {name: _suite(one) for name, one in data.pop("suites").items()}
        plan = _plan(data.pop("plan"))
        record = CellRecord(
            **{key: value for key, value in data.items() if key != "kind"}, plan=plan, suites=suites, source=str(path)
        )
        _check(record)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"not the record of a cell: {error}", str(path), "remove it, and run the cell again") from None
    for suite in suites.values():
        for group in suite.groups:
            group.check(str(path))
    return record


def _plan(data: Mapping[str, Any]) -> TrainingPlan:
    return TrainingPlan(**{**data, "sources": {name: SourceData(**one) for name, one in data["sources"].items()}})


def _suite(data: Mapping[str, Any]) -> SuiteScenes:
    return SuiteScenes(**{**data, "groups": [Scenes(**group) for group in data["groups"]]})


def _check(record: CellRecord) -> None:
    """Raises TypeError if a field has the wrong type."""
    for name, hint in typing.get_type_hints(CellRecord).items():
        kind = typing.get_origin(hint) or hint
        if not isinstance(getattr(record, name), kind):
            raise TypeError(f"`{name}` is not of type {kind.__name__}")


def _digits(values: Any) -> str:
    return "".join("1" if value else "0" for value in values)


def _lines(content: Any, indent: str = "") -> str:
    """JSON with a line for each entry of an object. Lists and small objects have one line: a curve would have hundreds."""
    flat = json.dumps(content, allow_nan=False)
    if not isinstance(content, dict) or len(flat) + len(indent) < 120:
        if isinstance(content, list) and any(isinstance(one, dict) for one in content):
            rows = ",\n".join(f"{indent} {_lines(one, indent + ' ')}" for one in content)
            return f"[\n{rows}\n{indent}]"
        return flat
    rows = ",\n".join(f"{indent} {json.dumps(key)}: {_lines(value, indent + ' ')}" for key, value in content.items())
    return f"{{\n{rows}\n{indent}}}"
