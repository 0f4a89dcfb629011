"""Source cards: YAML that says what a format leaves open, the keys of images, state and action and their conventions.

The card of our own shards (`vla.datasets.card`) is another one, and is written from a source card.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from vla import yaml12
from vla.datasets.card import Yaml
from vla.datasets.formats.conventions import operations
from vla.datasets.formats.conventions.forms import FORMS, LISTED, NAME, is_angle, radians
from vla.datasets.formats.conventions.undecided import check_decided
from vla.errors import UserError

Orientation = Literal["upright", "raw_opengl", "rot180", "mirrored"]
Role = Literal["position", "rotation", "joint", "gripper", "other"]
Alignment = Literal["pre", "post"]
Limits = Literal["quantiles", "range"]
Mode = Literal["delta", "absolute"]
NOT_SAID = "not said"
CONVENTIONS = ("frame", "mode", "rotation", "gripper", "alignment", "control_hz")
"""What a card says of a robot's numbers."""
WIDEST = 1 << 16
"""The largest number of dimensions that get names of their own."""


def contract_orientation(orientation: Orientation) -> Literal["upright", "mirrored"]:
    """How a camera's images come out of the data set, as a contract says it."""
    return "mirrored" if orientation == "mirrored" else "upright"


@dataclasses.dataclass(frozen=True)
class CameraKey:
    """The images of a camera.

    Attributes:
        key: their key in the format.
        orientation: orientation of the images, see `vla.transforms.Orient`.
    """

    key: str
    orientation: Orientation = "upright"


@dataclasses.dataclass(frozen=True)
class Part:
    """Some dimensions of state or action.

    Attributes:
        key: key of the values in the format; "" for dimensions that the data lacks (see `constant`).
        names: names of the dimensions after all operations.
        units: units of the dimensions, or one unit for all.
        pick: which of the values are used, in this order; all by default.
        do: operations of `vla.datasets.formats.conventions.operations`, in order: names, or {name: {argument: value}}.
        role: meaning of the dimensions; a change of rate adds positions, composes rotations and keeps the last gripper value.
        low, high: limits of the dimensions; by default from the statistics.
        constant: the value of dimensions that the data lacks.
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
        """The operations' names and arguments."""
        return [(op, {}) if isinstance(op, str) else next(iter(op.items())) for op in self.do]


@dataclasses.dataclass(frozen=True)
class SourceCard:
    """A data set's conventions.

    Attributes:
        title: title for people.
        verified: what the card was checked against, e.g. "unverified against data".
        embodiment: name of the robot.
        cameras: camera name -> its images.
        state, action: their dimensions, in order.
        instruction: keys of texts; the first that is not empty is used.
        text: the instruction for data without one.
        intervention: key of one value per step, true or not 0 where a person acted instead of the policy; "" if the data do not
            say who acted.
        steps: operations on whole episodes: drop_first, drop_last.
        alignment: whether a step's observation was made before its action or after it ("post" pairs each action with the
            observation before it and drops the first action).
        frame, mode, rotation, gripper, control_hz: as in `vla.contract.Embodiment`.
        limits: how limits follow from the statistics: the 1st and 99th percentile, or minimum and maximum.
        conventions: other conventions, for people.
        stated: of a card made from a data set itself: convention ("orientation", "mode" …) -> where the data say it. Other
            conventions are assumed. None if a person wrote the card.
    """

    title: str = ""
    verified: str = "unverified against data"
    embodiment: str = "robot"
    cameras: dict[str, CameraKey] = dataclasses.field(default_factory=dict)
    state: tuple[Part, ...] = ()
    action: tuple[Part, ...] = ()
    instruction: tuple[str, ...] = ()
    text: str = ""
    intervention: str = ""
    steps: tuple[str, ...] = ()
    alignment: Alignment = "pre"
    frame: str = NOT_SAID
    mode: Mode = "delta"
    rotation: str = NOT_SAID
    gripper: str = NOT_SAID
    control_hz: float = 10.0
    limits: Limits = "quantiles"
    conventions: dict[str, str] = dataclasses.field(default_factory=dict)
    # Not in the repr, which is part of a conversion's digest.
    stated: dict[str, str] | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def keys(self) -> set[str]:
        """The keys of everything that is used of the data."""
        parts = {part.key for part in (*self.state, *self.action)}
        flags = {self.intervention} if self.intervention else set()
        return {camera.key for camera in self.cameras.values()} | parts | set(self.instruction) | flags

    def convention(self, name: str) -> str:
        """The value of a convention; where neither the data nor a person say it, "not said" and what is assumed."""
        value = getattr(self, name)
        text = f"{value:g}" if isinstance(value, float) else str(value)
        if self.stated is None or value == NOT_SAID:
            return text
        return f"{text} ({self.stated[name]})" if self.says(name) else f"{NOT_SAID} (assumed: {text})"

    def says(self, name: str) -> bool:
        """Whether the data or a person say a convention; it is assumed otherwise."""
        return self.stated is None or name in self.stated

    def upright(self, camera: str) -> str:
        """In which orientation a camera's images come."""
        orientation = self.cameras[camera].orientation
        return f"comes {orientation}" if self.says("orientation") else f"orientation {NOT_SAID} (assumed: {orientation})"

    @property
    def assumed(self) -> dict[str, str]:
        """What is assumed because nobody says it: convention -> its value in words."""
        orientations = " and ".join(sorted({camera.orientation for camera in self.cameras.values()}))
        words = {
            "orientation": f"{orientations} images",
            "mode": f"{self.mode} actions",
            "alignment": f"observations {self.alignment}-action",
            "control_hz": f"{self.control_hz:g} actions per second",
        }
        return {name: text for name, text in words.items() if not self.says(name)}

    @property
    def unknown(self) -> list[str]:
        """The conventions that nobody says and that need no value."""
        return [name for name in ("gripper", "rotation", "frame") if getattr(self, name) == NOT_SAID]


def vector_names(prefix: str, size: int) -> tuple[str, ...]:
    """Names for dimensions without names; UserError for more than WIDEST dimensions."""
    if size > WIDEST:
        raise UserError(f"{prefix}… has {size} values", "", "write a card that picks some: --card FILE")
    return (prefix,) if size == 1 else tuple(f"{prefix}{i}" for i in range(size))


def shipped() -> list[str]:
    """The names of the cards in the package."""
    folder = resources.files("vla.configs") / "cards"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_source_card(name: str) -> SourceCard:
    """Loads a card from a file, or one of the package's cards by its name.

    Raises:
        UserError: there is no such card, it is not YAML, a value is still to be decided, or a key, operation or value is unknown
            or has the wrong type.
    """
    path = Path(name)
    if not path.is_file():
        if name not in shipped():
            raise UserError("no such card", name, f"give a YAML file, or one of the package's cards: {', '.join(shipped())}")
        text = (resources.files("vla.configs") / "cards" / f"{name}.yaml").read_text()
    else:
        text = path.read_text(errors="replace")
    check_decided(text, name)
    try:
        data = yaml12.load(text)
    except yaml.YAMLError as error:
        raise UserError(f"not YAML: {' '.join(str(error).split())}", name) from error
    return source_card(data, name)


def source_card(data: Yaml, where: str) -> SourceCard:
    """Builds a card from the contents of a YAML file, and checks it."""
    fields: dict[str, Any] = dict(_known(SourceCard, data, where))
    cameras = fields.get("cameras", {})
    if not isinstance(cameras, dict):
        raise UserError("cameras is not a mapping", where, "cameras: {NAME: {key: …}}")
    fields["cameras"] = {str(k): _camera(v, f"{where}, camera {k}") for k, v in cameras.items()}
    for space in ("state", "action"):
        parts = fields.get(space, [])
        if not isinstance(parts, list):
            raise UserError(f"{space} is not a list", where, f"{space}: [{{key: …, names: […]}}]")
        read = [_part(part, f"{where}, {space} {number}") for number, part in enumerate(parts)]
        form = fields.get("rotation", "") if space == "action" else ""
        if sum(len(part.names) for part in read if _is_rotation(part)) == 1:
            form = "angle"
        fields[space] = tuple(_with_form(part, form, f"{where}, {space} {number}") for number, part in enumerate(read))
    for name in ("instruction", "steps"):
        fields[name] = _texts(fields.get(name, ()), f"{where}, {name}")
    texts = ("title", "verified", "embodiment", "text", "intervention", "frame", "rotation", "gripper")
    for name, kind in (*((name, str) for name in texts), ("conventions", dict)):
        if not isinstance(fields.get(name, kind()), kind):
            raise UserError(f"{name} is a {type(fields[name]).__name__}", where, f"it must be a {kind.__name__}")
    card = SourceCard(**fields)
    _check_choice(card.alignment, get_args(Alignment), f"{where}, alignment")
    _check_choice(card.limits, get_args(Limits), f"{where}, limits")
    _check_choice(card.mode, get_args(Mode), f"{where}, mode")
    for camera in card.cameras.values():
        if not isinstance(camera.key, str):
            raise UserError(f"a camera's key is {camera.key!r}", where, "give the images' key in the format")
        _check_choice(camera.orientation, get_args(Orientation), f"{where}, cameras")
    for space in ("state", "action"):
        names = [name for part in getattr(card, space) for name in part.names]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"{', '.join(repeated)} more than once", f"{where}, {space}", "give every dimension its own name")
    for name in card.steps:
        if name not in operations.STEPS:
            raise UserError(f"unknown operation {name!r}", f"{where}, steps", f"use one of {', '.join(operations.STEPS)}")
    if not isinstance(card.control_hz, int | float) or card.control_hz <= 0:
        raise UserError(f"control_hz is {card.control_hz!r}", where, "give actions per second")
    return card


def _camera(data: Yaml, where: str) -> CameraKey:
    fields: dict[str, Any] = _known(CameraKey, data, where)
    if "key" not in fields:
        raise UserError("it has no key", where, "add `key`, the images' key in the format")
    return CameraKey(**fields)


def _part(data: Yaml, where: str) -> Part:
    fields: dict[str, Any] = dict(_known(Part, data, where))
    fields["names"] = _texts(fields.get("names", ()), f"{where}, names")
    fields["units"] = _texts(fields.get("units", ()), f"{where}, units")
    picked = fields.get("pick", [])
    if not isinstance(picked, list) or not all(isinstance(i, int) for i in picked):
        raise UserError(f"pick is {picked!r}", where, "give a list of integers")
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
            raise UserError(f"{name} is {value!r}", where, "give a number")
    if part.low is not None and part.high is not None and part.low >= part.high:
        raise UserError(f"its limits are {part.low} to {part.high}", where, "give a low limit below the high one")
    _check_choice(part.role, get_args(Role), f"{where}, role")
    for op in part.do:
        if not (isinstance(op, str) or (isinstance(op, dict) and len(op) == 1 and isinstance(next(iter(op.values())), dict))):
            raise UserError(f"not an operation: {op!r}", where, "give a name, or {name: {argument: value}}")
    for name, arguments in part.operations():
        operations.check(name, arguments, where)
    return part


def _is_rotation(part: Part) -> bool:
    """Whether a part's dimensions are a rotation's, by its role or else their names."""
    return part.role == "rotation" or (part.role == "other" and all(map(NAME.fullmatch, part.names)))


def _with_form(part: Part, form: str, where: str) -> Part:
    """The part; if it takes differences of rotations, these name the form and the unit that differ: by default the result's.

    Raises:
        UserError: the form is unknown, or does not have as many values as the part.
    """
    do = list(part.do)
    for number, (name, arguments) in enumerate(part.operations() if _is_rotation(part) else ()):
        if name != "difference":
            continue
        last, unit = number == len(do) - 1, part.all_units[0]
        arguments = {**({"rotation": form} if last else {}), **arguments}
        known = FORMS.get(arguments.get("rotation", ""))
        if known is None:
            what = "rotations do not differ number by number (an angle passes from pi to -pi), and their form is not said"
            raise UserError(what, where, f"{{difference: {{rotation: FORM}}}}, with FORM one of {LISTED}")
        if last and len(part.names) % known.size:
            what = f"{len(part.names)} values of the form {arguments['rotation']}"
            raise UserError(what, where, f"give the {known.size} values of a rotation as one part")
        if last and known.angles and "unit" not in arguments:
            if not is_angle(unit):
                raise UserError(f"the unit of its angles is {unit!r}", where, "units: [rad], or [deg]")
            arguments["unit"] = radians(unit)
        do[number] = {name: arguments}
    return dataclasses.replace(part, do=tuple(do))


def _known(cls: type, data: Yaml, where: str) -> dict[str, Yaml]:
    """The data, a mapping with fields of the class as keys; `stated` is none that a file may have."""
    if not isinstance(data, dict):
        raise UserError(f"not a mapping: {data!r}", where)
    fields = [f.name for f in dataclasses.fields(cls) if f.name != "stated"]
    unknown = [str(key) for key in data if key not in fields]
    if unknown:
        raise UserError(f"unknown keys: {', '.join(unknown)}", where, f"use {', '.join(fields)}")
    return data


def _texts(value: str | Iterable[str], where: str) -> tuple[str, ...]:
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, Iterable) or isinstance(value, dict) or not all(isinstance(v, str) for v in value):
        raise UserError(f"it is {value!r}", where, "give a text, or a list of texts")
    return tuple(value)


def _check_choice(value: str, choices: tuple[str, ...], where: str) -> None:
    if value not in choices:
        raise UserError(f"it is {value!r}", where, f"use one of {', '.join(choices)}")
