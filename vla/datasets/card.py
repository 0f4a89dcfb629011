"""The card of a data set, `card.yaml` beside its shards: its contents and its conventions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import yaml

from vla import yaml12
from vla.contract import SCHEMA, Embodiment, PolicyContract
from vla.errors import UserError

FILE = "card.yaml"
Yaml = None | bool | int | float | str | list["Yaml"] | dict[str, "Yaml"]
"""The contents of a YAML file."""
_TYPES: dict[str, type] = {
    "embodiment": str,
    "counts": dict,
    "shards": dict,
    "questions": dict,
    "conventions": dict,
    "generator": dict,
    "wordings": list,
}


@dataclasses.dataclass(frozen=True)
class DatasetCard:
    """Describes a data set, for people and for `vla fit`.

    Attributes:
        name: name of the data set.
        kind: "robot" if a sample is a step of an episode, "questions" if it is images with questions.
        embodiment: name of the robot in samples and contract.
        spec: the robot: cameras, state and action spaces (names, units, limits, constants and statistics), control rate.
        counts: sizes, e.g. of episodes, steps, discarded; or of images.
        shards: shard name -> number of samples; required for a data set that is read from an address.
        questions: question type -> number of questions.
        conventions: what units and names do not express, e.g. {"pictures": "upright RGB"}.
        wordings: templates of the instructions or questions.
        generator: how the data was made, e.g. {"command": ..., "task": ..., "seed": ...}.
    """

    name: str
    kind: Literal["robot", "questions"]
    embodiment: str
    spec: Embodiment
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    shards: dict[str, int] = dataclasses.field(default_factory=dict)
    questions: dict[str, int] = dataclasses.field(default_factory=dict)
    conventions: dict[str, str] = dataclasses.field(default_factory=dict)
    wordings: list[str] = dataclasses.field(default_factory=list)
    generator: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def statistics(self) -> dict[str, dict[str, tuple[float, ...]]]:
        """mean, std, min, max, q01, q99 per dimension, of "action" and of "state"."""
        return {"action": self.spec.action.statistics, "state": self.spec.state.statistics}

    @property
    def task(self) -> str:
        """Name of the simulator task that robot data shows; "" if the card names none."""
        return str(self.generator.get("task", "")) if self.kind == "robot" else ""

    def save(self, folder: str | Path) -> None:
        """Writes card.yaml into the folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        content = dataclasses.asdict(self)
        for space in ("state", "action"):
            # Decided at training, where all of a robot's data sets are known.
            del content["spec"][space]["binary"]
        text = yaml12.dump(_plain(content), sort_keys=False, allow_unicode=True, width=120)
        (Path(folder) / FILE).write_text(text)

    @classmethod
    def load(cls, folder: str | Path) -> DatasetCard:
        """Reads card.yaml from the folder.

        Raises:
            UserError: the file is missing or not YAML, a key is unknown or missing, or a value has the wrong type.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise UserError("no dataset card found", str(path), "give the folder that `vla collect` or a converter wrote")
        try:
            data = yaml12.load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"not YAML: {error}", str(path)) from error
        return cls._from_dict(data, str(path))

    @classmethod
    def _from_dict(cls, data: Yaml, where: str) -> DatasetCard:
        if not isinstance(data, dict):
            raise UserError("not a mapping", where)
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [str(key) for key in data if key not in known]
        if unknown:
            raise UserError(f"unknown keys: {', '.join(unknown)}", where, f"a card has {', '.join(known)}")
        missing = [name for name in ("name", "kind", "embodiment", "spec") if name not in data]
        if missing:
            raise UserError(f"missing keys: {', '.join(missing)}", where)
        if data["kind"] not in ("robot", "questions"):
            raise UserError(f"kind is {data['kind']!r}", where, "robot or questions")
        for name, type_ in _TYPES.items():
            if not isinstance(data.get(name, type_()), type_):
                raise UserError(f"{name} is a {data[name].__class__.__name__}", where, f"it must be a {type_.__name__}")
        embodiment = str(data["embodiment"])
        contract = PolicyContract.from_dict({"schema": SCHEMA, "embodiments": {embodiment: data["spec"]}}, where)
        fields: dict[str, Any] = {**data, "spec": contract.embodiment(embodiment)}
        return cls(**fields)


def _plain(value: Yaml | tuple[Yaml, ...]) -> Yaml:
    """The value with lists for tuples, which YAML does not have."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
