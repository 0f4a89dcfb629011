"""How the scenes of an evaluation differ from training's, as plain data, and drawing such a scene. No simulator here."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from vla.errors import UserError
from vla.sim.scene import COLOURS, SHAPES, SLOTS, UNSEEN_COLOURS, UNSEEN_SHAPES, Scene, arrange, sample_scene

Rgb = tuple[float, float, float]
MATERIALS = ("table_ceramic", "floorplane", "walls_mat")
"""Textures that the compiled model has."""


@dataclasses.dataclass(frozen=True)
class Variation:
    """What differs from training; the default is nothing.

    Attributes:
        name: in the suite.
        objects: names ("red cube") from which a scene's objects are drawn, colours distinct; () is all that training has.
        shared_colour: the first two objects have one colour and differ in shape.
        distractors: further objects, beyond the two or three that training has.
        wordings: sentences with {name} in them; () is training's.
        words: what a word of an object's name is replaced by in the instruction.
        table: colour of the table top, or one of the model's textures; "" is training's.
        floor, walls: their colour.
        light: factors of red, green and blue.
        camera: by how much (m; x, y, z) the front camera is moved; it still looks at the same place.
    """

    name: str = "seen"
    objects: tuple[str, ...] = ()
    shared_colour: bool = False
    distractors: int = 0
    wordings: tuple[str, ...] = ()
    words: dict[str, str] = dataclasses.field(default_factory=dict)
    table: Rgb | str = ""
    floor: Rgb | None = None
    walls: Rgb | None = None
    light: Rgb = (1.0, 1.0, 1.0)
    camera: Rgb = (0.0, 0.0, 0.0)

    def noun(self, name: str) -> str:
        """An object's name as this variation says it."""
        return " ".join(self.words.get(word, word) for word in name.split())

    def to_dict(self) -> dict[str, Any]:
        """Its name and all that differs from training: what a suite's hash is made of."""
        plain = dataclasses.asdict(Variation())
        return {key: value for key, value in dataclasses.asdict(self).items() if key == "name" or value != plain[key]}


SEEN = Variation()


def read_variation(name: str, data: Any, where: str) -> Variation:
    """A variation from what YAML holds; `colours` and `shapes` may stand for `objects`: all their pairs.

    Raises:
        UserError: an unknown field, object or texture, or a value of the wrong kind; the field is named.
    """
    where = f"{where}: variation {name!r}"
    data = dict(_mapping({} if data is None else data, where))
    pool = [_texts(data.pop(key, default), key, where) for key, default in (("colours", None), ("shapes", None))]
    fields = [f.name for f in dataclasses.fields(Variation) if f.name != "name"]
    for key in data:
        if key not in fields:
            raise UserError(f"unknown field {key!r}", where, f"known are colours, shapes, {', '.join(fields)}")
    if any(pool):
        if "objects" in data:
            raise UserError("both `objects` and `colours` or `shapes`", where, "give the one or the others")
        data["objects"] = [f"{c} {s}" for c in pool[0] or list(COLOURS) for s in pool[1] or list(SHAPES)]
    read: dict[str, Any] = {"name": name}
    for key, value in data.items():
        if key in ("objects", "wordings"):
            read[key] = _texts(value, key, where)
        elif key in ("floor", "walls", "light", "camera") or (key == "table" and not isinstance(value, str)):
            read[key] = _three(value, key, where, key == "camera")
        else:
            read[key] = value
    made = Variation(**read)
    _check(made, where)
    return made


def _check(v: Variation, where: str) -> None:
    for name in v.objects:
        colour, _, shape = name.partition(" ")
        if colour not in COLOURS | UNSEEN_COLOURS or shape not in SHAPES | UNSEEN_SHAPES:
            known = f"{', '.join(COLOURS | UNSEEN_COLOURS)} with {', '.join(SHAPES | UNSEEN_SHAPES)}"
            raise UserError(f"unknown object {name!r}", where, f"known are {known}")
    if v.objects and len({name.split()[0] for name in v.objects}) < 2:
        raise UserError("`objects` have fewer than two colours", where, "a scene has at least two objects that differ in colour")
    if v.objects and v.shared_colour:
        raise UserError("`objects` and `shared_colour` exclude each other", where, "give the one or the other")
    for wording in v.wordings:
        if "{name}" not in wording or wording.count("{") != 1 or wording.count("}") != 1:
            raise UserError(f"wording {wording!r}", where, "put {name} where the object is named, and no other braces")
    if type(v.shared_colour) is not bool:
        raise UserError(f"`shared_colour` is {v.shared_colour!r}", where, "true or false")
    if type(v.distractors) is not int or not 0 <= v.distractors <= SLOTS - 2:
        raise UserError(f"`distractors` is {v.distractors!r}", where, f"0 to {SLOTS - 2}")
    if not all(isinstance(k, str) and isinstance(w, str) for k, w in _mapping(v.words, where).items()):
        raise UserError("`words` maps something else than words to words", where, "e.g. {cube: block}")
    if isinstance(v.table, str) and v.table not in ("", *MATERIALS):
        raise UserError(f"unknown texture {v.table!r}", where, f"a colour as [r, g, b], or one of {', '.join(MATERIALS)}")


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"expected names and values, got {value!r}", where)
    return value


def _texts(value: Any, key: str, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise UserError(f"`{key}` is {value!r}", where, "give a list of texts")
    return tuple(value)


def _three(value: Any, key: str, where: str, signed: bool) -> Rgb:
    numbers = isinstance(value, list) and len(value) == 3 and all(type(one) in (int, float) for one in value)
    if not numbers or (not signed and min(value) < 0) or max(map(abs, value)) > 4:
        raise UserError(f"`{key}` is {value!r}", where, "three metres" if signed else "three numbers for red, green and blue")
    return float(value[0]), float(value[1]), float(value[2])


def draw_scene(rng: np.random.Generator, count: int, variation: Variation = SEEN) -> Scene:
    """A scene of this variation; without one, exactly training's `sample_scene`.

    Args:
        count: objects, two or three; distractors come on top, as far as there is room and a colour left.
    """
    count = min(count + variation.distractors, SLOTS)
    if variation.objects:
        names: list[tuple[str, str]] = []
        for name in rng.permutation(list(variation.objects)):
            colour, shape = str(name).split()
            if len(names) < count and colour not in [c for c, _ in names]:
                names.append((colour, shape))
        return arrange(rng, names)
    if variation.shared_colour:
        colours, shapes = rng.permutation(list(COLOURS)), rng.permutation(list(SHAPES))
        rest = [(str(c), str(rng.choice(list(SHAPES)))) for c in colours[1 : count - 1]]
        return arrange(rng, [(str(colours[0]), str(shapes[0])), (str(colours[0]), str(shapes[1])), *rest])
    return sample_scene(rng, count)
