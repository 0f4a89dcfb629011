"""What a format does not say of its data: which names are pictures, state and action, and in which conventions; as YAML.

Not the card of our own shards (`vla.datasets.card`), which is written from it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from vla.datasets.formats.conventions import operations
from vla.errors import UserError

Orientation = Literal["upright", "raw_opengl", "rot180"]
Role = Literal["position", "rotation", "joint", "gripper", "other"]
Alignment = Literal["pre", "post"]
Limits = Literal["quantiles", "range"]
WIDEST = 1 << 16


@dataclasses.dataclass(frozen=True)
class CameraKey:
    """Where a camera's pictures are.

    Attributes:
        key: the format's name of them.
        orientation: how they come, see `vla.transforms.Orient`.
    """

    key: str
    orientation: Orientation = "upright"


@dataclasses.dataclass(frozen=True)
class Part:
    """Some dimensions of state or action.

    Attributes:
        key: the format's name of the values; "" for dimensions that the data does not have (see `constant`).
        names: of the dimensions, after all operations.
        units: of the dimensions; one for all may be given.
        pick: which of the values are taken, in this order; all by default.
        do: operations of `vla.datasets.formats.conventions.operations`, in order: names, or {name: {argument: value}}.
        role: what the dimensions are; a change of rate adds up positions, composes rotations, and keeps the last gripper.
        low, high: limits of the dimensions; taken from the statistics by default.
        constant: the value of dimensions that the data does not have.
    """

    key: str = ""
    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    pick: tuple[int, ...] = ()
    do: tuple[str | dict[str, dict[str, Any]], ...] = ()
    role: Role = "other"
    low: float | None = None
    high: float | None = None
    constant: float | None = None

    @property
    def all_units(self) -> tuple[str, ...]:
        return self.units * len(self.names) if len(self.units) == 1 else self.units or ("",) * len(self.names)

    def operations(self) -> list[tuple[str, dict[str, Any]]]:
        """Names and arguments of what is to be done."""
        return [(op, {}) if isinstance(op, str) else next(iter(op.items())) for op in self.do]


@dataclasses.dataclass(frozen=True)
class SourceCard:
    """A data set's conventions.

    Attributes:
        title: for people.
        verified: what the card was checked against, e.g. "unverified against data".
        embodiment: name of the robot.
        cameras: name -> where its pictures are.
        state, action: their dimensions, in order.
        instruction: names of texts; the first that is not empty is taken.
        text: the instruction where the data has none.
        steps: operations on whole episodes: drop_first, drop_last.
        alignment: whether a step's observation was made before its action or after it ("post" pairs each action with the
            observation before it and drops the first action).
        frame, mode, rotation, gripper, control_hz: as in `vla.contract.Embodiment`.
        limits: how limits come from the statistics: the 1st and 99th percentile, or smallest and largest.
        conventions: whatever else people should know.
    """

    title: str = ""
    verified: str = "unverified against data"
    embodiment: str = "robot"
    cameras: dict[str, CameraKey] = dataclasses.field(default_factory=dict)
    state: tuple[Part, ...] = ()
    action: tuple[Part, ...] = ()
    instruction: tuple[str, ...] = ()
    text: str = ""
    steps: tuple[str, ...] = ()
    alignment: Alignment = "pre"
    frame: str = "not said"
    mode: Literal["delta", "absolute"] = "delta"
    rotation: str = "not said"
    gripper: str = "not said"
    control_hz: float = 10.0
    limits: Limits = "quantiles"
    conventions: dict[str, str] = dataclasses.field(default_factory=dict)


def vector_names(prefix: str, size: int) -> tuple[str, ...]:
    """Names for dimensions that have none; UserError for more than any robot has."""
    if size > WIDEST:
        raise UserError(f"{prefix}… has {size} values", "", "write a card that picks some: --card FILE")
    return (prefix,) if size == 1 else tuple(f"{prefix}{i}" for i in range(size))


def shipped() -> list[str]:
    """Names of the cards in the package."""
    folder = resources.files("vla.configs") / "cards"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_source_card(name: str) -> SourceCard:
    """A card from a file, or one of the package's by its name.

    Raises:
        UserError: neither; not YAML; an unknown key, operation or value, or one of the wrong kind.
    """
    path = Path(name)
    if not path.is_file():
        if name not in shipped():
            raise UserError("no such card", name, f"give a YAML file, or one of the package's: {', '.join(shipped())}")
        text = (resources.files("vla.configs") / "cards" / f"{name}.yaml").read_text()
    else:
        text = path.read_text(errors="replace")
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"not YAML: {' '.join(str(error).split())}", name) from error
    return source_card(data, name)


def source_card(data: Any, where: str) -> SourceCard:
    """A card from plain data, checked."""
    fields = dict(_known(SourceCard, data, where))
    cameras = fields.get("cameras", {})
    if not isinstance(cameras, dict):
        raise UserError("cameras is not a mapping", where, "cameras: {NAME: {key: …}}")
    fields["cameras"] = {str(k): CameraKey(**_known(CameraKey, v, f"{where}, camera {k}")) for k, v in cameras.items()}
    for space in ("state", "action"):
        parts = fields.get(space, [])
        if not isinstance(parts, list):
            raise UserError(f"{space} is not a list", where, f"{space}: [{{key: …, names: […]}}]")
        fields[space] = tuple(_part(part, f"{where}, {space} {number}") for number, part in enumerate(parts))
    for name in ("instruction", "steps"):
        fields[name] = _texts(fields.get(name, ()), f"{where}, {name}")
    texts = ("title", "verified", "embodiment", "text", "frame", "rotation", "gripper")
    for name, kind in (*((name, str) for name in texts), ("conventions", dict)):
        if not isinstance(fields.get(name, kind()), kind):
            raise UserError(f"{name} is a {type(fields[name]).__name__}", where, f"it must be a {kind.__name__}")
    card = SourceCard(**fields)
    _choice(card.alignment, Alignment, f"{where}, alignment")
    _choice(card.limits, Limits, f"{where}, limits")
    _choice(card.mode, Literal["delta", "absolute"], f"{where}, mode")
    for camera in card.cameras.values():
        if not isinstance(camera.key, str):
            raise UserError(f"a camera's key is {camera.key!r}", where, "the format's name of the pictures")
        _choice(camera.orientation, Orientation, f"{where}, cameras")
    for space in ("state", "action"):
        names = [name for part in getattr(card, space) for name in part.names]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"{', '.join(twice)} more than once", f"{where}, {space}", "give every dimension a name of its own")
    for name in card.steps:
        if name not in operations.STEPS:
            raise UserError(f"unknown operation {name!r}", f"{where}, steps", f"one of {', '.join(operations.STEPS)}")
    if not isinstance(card.control_hz, int | float) or card.control_hz <= 0:
        raise UserError(f"control_hz is {card.control_hz!r}", where, "give actions per second")
    return card


def _part(data: Any, where: str) -> Part:
    fields = dict(_known(Part, data, where))
    fields["names"] = _texts(fields.get("names", ()), f"{where}, names")
    fields["units"] = _texts(fields.get("units", ()), f"{where}, units")
    picked = fields.get("pick", [])
    if not isinstance(picked, list) or not all(isinstance(i, int) for i in picked):
        raise UserError(f"pick is {picked!r}", where, "a list of integers")
    do = fields.get("do", [])
    fields |= {"pick": tuple(picked), "do": tuple(do) if isinstance(do, list) else (do,)}
    part = Part(**fields)
    if not part.names:
        raise UserError("it has no names", where, "name every dimension")
    if (part.constant is None) == (not part.key):
        raise UserError("it needs a key or a constant, not both", where)
    if len(part.all_units) != len(part.names):
        raise UserError(f"{len(part.units)} units for {len(part.names)} names", where)
    for name in ("low", "high", "constant"):
        value = getattr(part, name)
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
            raise UserError(f"{name} is {value!r}", where, "a number")
    if part.low is not None and part.high is not None and part.low >= part.high:
        raise UserError(f"its limits are {part.low} to {part.high}", where, "low below high")
    _choice(part.role, Role, f"{where}, role")
    for op in part.do:
        if not (isinstance(op, str) or (isinstance(op, dict) and len(op) == 1 and isinstance(next(iter(op.values())), dict))):
            raise UserError(f"not an operation: {op!r}", where, "a name, or {name: {argument: value}}")
    for name, arguments in part.operations():
        operations.check(name, arguments, where)
    return part


def _known(cls: type, data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise UserError(f"not a mapping: {data!r}", where)
    fields = [f.name for f in dataclasses.fields(cls)]
    unknown = [str(key) for key in data if key not in fields]
    if unknown:
        raise UserError(f"unknown keys: {', '.join(unknown)}", where, f"it has {', '.join(fields)}")
    if cls is CameraKey and "key" not in data:
        raise UserError("it has no key", where, "key: the format's name of the pictures")
    return data


def _texts(value: Any, where: str) -> tuple[str, ...]:
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, Iterable) or isinstance(value, dict) or not all(isinstance(v, str) for v in value):
        raise UserError(f"it is {value!r}", where, "a text, or a list of them")
    return tuple(value)


def _choice(value: Any, kind: Any, where: str) -> None:
    if value not in get_args(kind):
        raise UserError(f"it is {value!r}", where, f"one of {', '.join(get_args(kind))}")
