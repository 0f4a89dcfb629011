"""The card of a data set: what it holds and in which conventions, as `card.yaml` beside the shards."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import yaml

from vla.contract import SCHEMA, Embodiment, PolicyContract
from vla.errors import UserError

FILE = "card.yaml"


@dataclasses.dataclass(frozen=True)
class DatasetCard:
    """What people and `fit` must know of a data set.

    Attributes:
        name: of the data set.
        kind: whether a sample is a robot step or a picture pair with questions.
        embodiment: the name by which samples and contract know the robot.
        spec: the robot: cameras, state and action spaces (names, units, limits, constants and statistics), control rate.
        counts: how much there is, e.g. episodes, steps, discarded; or pictures.
        shards: samples by shard; needed where the data set is read from elsewhere.
        questions: type -> how many.
        conventions: whatever units and names do not say, e.g. {"pictures": "upright RGB"}.
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
        """Of actions and states: mean, std, min, max, q01, q99 per dimension."""
        return {"action": self.spec.action.statistics, "state": self.spec.state.statistics}

    @property
    def task(self) -> str:
        """The simulator's task that robot data shows, by name; "" where the card names none."""
        return str(self.generator.get("task", "")) if self.kind == "robot" else ""

    def save(self, folder: str | Path) -> None:
        """Writes card.yaml into the folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(_plain(dataclasses.asdict(self)), sort_keys=False, allow_unicode=True, width=120)
        (Path(folder) / FILE).write_text(text)

    @classmethod
    def load(cls, folder: str | Path) -> DatasetCard:
        """Reads card.yaml of the folder.

        Raises:
            UserError: there is none, it is not YAML, a key is unknown or missing, or a value is of the wrong kind.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise UserError("no dataset card found", str(path), "give the folder that `vla collect` or a converter wrote")
        try:
            data = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise UserError(f"not YAML: {error}", str(path)) from error
        return cls._from_dict(data, str(path))

    @classmethod
    def _from_dict(cls, data: Any, where: str) -> DatasetCard:
        if not isinstance(data, dict):
            raise UserError("not a mapping", where)
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = [str(key) for key in data if key not in fields]
        if unknown:
            raise UserError(f"unknown keys: {', '.join(unknown)}", where, f"a card has {', '.join(fields)}")
        missing = [name for name in ("name", "kind", "embodiment", "spec") if name not in data]
        if missing:
            raise UserError(f"missing keys: {', '.join(missing)}", where)
        if data["kind"] not in ("robot", "questions"):
            raise UserError(f"kind is {data['kind']!r}", where, "robot or questions")
        for name, kind in (
            ("embodiment", str),
            ("counts", dict),
            ("shards", dict),
            ("questions", dict),
            ("conventions", dict),
            ("generator", dict),
            ("wordings", list),
        ):
            if not isinstance(data.get(name, kind()), kind):
                raise UserError(f"{name} is a {type(data[name]).__name__}", where, f"it must be a {kind.__name__}")
        contract = PolicyContract.from_dict({"schema": SCHEMA, "embodiments": {data["embodiment"]: data["spec"]}}, where)
        return cls(**{**data, "spec": contract.embodiment(data["embodiment"])})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
