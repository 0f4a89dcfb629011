"""Variations of the tabletop's scenes as plain data, and drawing a scene of a variation. This module needs no simulator."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Sequence
from typing import Any, Self, cast

import numpy as np

from vla.errors import UserError
from vla.sim.tabletop.scene import COLOURS, FLAT, RECEPTACLES, SHAPES, SLOTS, UNSEEN_COLOURS, UNSEEN_SHAPES, Scene, arrange
from vla.sim.tabletop.words import NUMBERS, SYMBOLS
from vla.sim.variation import Json, Variation

Rgb = tuple[float, float, float]
MATERIALS = ("table_ceramic", "floorplane", "walls_mat")
"""The textures of the compiled model."""
HIGHEST = 0.05
"""The largest displacement (m) of the table: as far as the arm works as it does at the original height."""
TOLD_BY = ("", "colour", "shape", "side", "number", "symbol")
TELLING = 0.05
"""The least distance (m), left to right, from an object to all others if its side names it, or to its neighbours if its number
does."""
BLANKS = ("name", "reference", "side", "where")
"""The blanks of a wording: the object to act on, the object that says where to, "left", and "to the left of"."""


@dataclasses.dataclass(frozen=True)
class TabletopVariation(Variation):
    """The differences from the training scenes; none by default.

    Attributes:
        objects: names ("red cube") from which a scene's objects are drawn, with distinct colours; () is training's objects.
        shared_colour: the first two objects have the same colour and differ in shape.
        sizes: objects are small or large, and their names say so; often the first two differ in size alone.
        every_task: scenes in which every task is possible with the same object, and which are the same for every task: what is to
            be done is in the sentence alone (`vla.sim.tabletop.tasks.together`).
        distractors: number of objects beyond the two or three of training.
        wordings: sentences with the blank {name}, and {reference}, {side} or {where} like the tasks' own; () is training's.
        words: replacements for words of an object's name in the instruction.
        told_by: how the instruction names the object to act on: "" by its name; by its "colour" or its "shape"; by the "side" of
            another object on which it stands alone; by its "number" from the left; or by a "symbol" of that number: as many as a
            dog has legs.
        table: colour of the table top, or one of the model's textures; "" is training's.
        floor, walls: colours.
        light: factors of red, green and blue.
        camera: displacement (m; x, y, z) of the front camera, which still looks at the same point.
        raised: height (m) that the table is raised by; negative is lower. Robot and cameras stay.
    """

    objects: tuple[str, ...] = ()
    shared_colour: bool = False
    sizes: bool = False
    every_task: bool = False
    distractors: int = 0
    wordings: tuple[str, ...] = ()
    words: dict[str, str] = dataclasses.field(default_factory=dict)
    told_by: str = ""
    table: Rgb | str = ""
    floor: Rgb | None = None
    walls: Rgb | None = None
    light: Rgb = (1.0, 1.0, 1.0)
    camera: Rgb = (0.0, 0.0, 0.0)
    raised: float = 0.0

    def noun(self, name: str) -> str:
        """An object's name in the words of this variation."""
        return " ".join(self.words.get(word, word) for word in name.split())

    def tell(self, scene: Scene, index: int, rng: np.random.Generator) -> str:
        """The instruction's phrase for object `index`, after "the". `rng` draws the symbol of a number."""
        target = scene[index]
        if self.told_by in ("number", "symbol"):
            number = NUMBERS[from_left(scene).index(index)]
            words = f"number {number}" if self.told_by == "number" else f"as many as {rng.choice(SYMBOLS[number])}"
            return f"object that is {words} from the left"
        if self.told_by == "side":
            neighbour = side_neighbour(scene, index)
            assert neighbour is not None
            side, other = neighbour
            return f"object to the {side} of the {self.noun(scene[other].name)}"
        return self.noun({"": target.name, "colour": f"{target.colour} object", "shape": target.shape}[self.told_by])

    @classmethod
    def of(cls, variation: Variation, where: str = "") -> Self:
        """The variation as one of the tabletop's: itself, or an empty one by its name; UserError for another simulator's."""
        if isinstance(variation, cls):
            return variation
        if variation.changes:
            raise UserError(f"the tabletop cannot vary its {', '.join(variation.changes)}", where, "leave it out")
        return cls(variation.name)


SEEN = TabletopVariation()


def read_variation(name: str, settings: Json, where: str) -> TabletopVariation:
    """Reads a variation from parsed YAML. `colours` and `shapes` together stand for `objects`: all their pairs.

    Raises:
        UserError: an unknown field, object or texture, or a value of the wrong kind; the field is named.
    """
    where = f"{where}: variation {name!r}"
    data = dict(_mapping({} if settings is None else settings, where))
    pool = [_texts(data.pop(key, default), key, where) for key, default in (("colours", None), ("shapes", None))]
    fields = [f.name for f in dataclasses.fields(TabletopVariation) if f.name != "name"]
    for key in data:
        if key not in fields:
            raise UserError(f"unknown field {key!r}", where, f"known are colours, shapes, {', '.join(fields)}")
    if any(pool):
        if "objects" in data:
            raise UserError("`objects` together with `colours` or `shapes`", where, "give either objects, or colours and shapes")
        data["objects"] = [f"{c} {s}" for c in pool[0] or list(COLOURS) for s in pool[1] or list(SHAPES)]
    read: dict[str, Any] = {"name": name}
    for key, value in data.items():
        if key in ("objects", "wordings"):
            read[key] = _texts(value, key, where)
        elif key in ("floor", "walls", "light", "camera") or (key == "table" and not isinstance(value, str)):
            read[key] = _three(value, key, where, key == "camera")
        else:
            read[key] = value
    variation = TabletopVariation(**read)
    _check(variation, where)
    return variation


def _check(v: TabletopVariation, where: str) -> None:
    for name in v.objects:
        colour, _, shape = name.partition(" ")
        if colour not in COLOURS | UNSEEN_COLOURS or shape not in SHAPES | UNSEEN_SHAPES | FLAT:
            known = f"{', '.join(COLOURS | UNSEEN_COLOURS)} with {', '.join(SHAPES | UNSEEN_SHAPES | FLAT)}"
            raise UserError(f"unknown object {name!r}", where, f"known are {known}")
    if v.objects and len({name.split()[0] for name in v.objects}) < 2:
        raise UserError("`objects` have fewer than two colours", where, "a scene has at least two objects that differ in colour")
    for key in ("shared_colour", "sizes", "every_task"):
        if type(getattr(v, key)) is not bool:
            raise UserError(f"`{key}` is {getattr(v, key)!r}", where, "true or false")
    if bool(v.objects) + v.shared_colour + v.sizes + v.every_task > 1:
        raise UserError("`objects`, `shared_colour`, `sizes` and `every_task` exclude each other", where, "give one of them")
    if v.every_task and (v.distractors or v.told_by):
        raise UserError("`every_task` with `distractors` or `told_by`", where, "leave them out: the table is full, and has names")
    for wording in v.wordings:
        blanks = open_in(wording)
        if "name" not in blanks or len(set(blanks)) < len(blanks) or not set(blanks) <= set(BLANKS):
            raise UserError(
                f"wording {wording!r}",
                where,
                "use {name} once for the object; the other blanks are {reference}, {side} and {where}",
            )
    if type(v.raised) not in (int, float) or not abs(v.raised) <= HIGHEST:
        raise UserError(f"`raised` is {v.raised!r}", where, f"-{HIGHEST} to {HIGHEST} m")
    if type(v.distractors) is not int or not 0 <= v.distractors <= SLOTS - 2:
        raise UserError(f"`distractors` is {v.distractors!r}", where, f"0 to {SLOTS - 2}")
    if v.told_by not in TOLD_BY:
        raise UserError(f"`told_by` is {v.told_by!r}", where, f"one of {', '.join(TOLD_BY[1:])}")
    if v.told_by and (v.sizes or (v.shared_colour and v.told_by == "colour")):
        raise UserError(f"objects need not differ in their {v.told_by}", where, "leave out `shared_colour`, `sizes` or `told_by`")
    if v.told_by == "shape" and v.objects and len({name.split()[-1] for name in v.objects}) < 2:
        raise UserError("`told_by: shape` with `objects` of one shape", where, "add other shapes, or leave out `told_by`")
    if not all(isinstance(k, str) and isinstance(w, str) for k, w in _mapping(cast(Json, v.words), where).items()):
        raise UserError("`words` must map words to words", where, "e.g. {cube: block}")
    if isinstance(v.table, str) and v.table not in ("", *MATERIALS):
        raise UserError(f"unknown texture {v.table!r}", where, f"a colour as [r, g, b], or one of {', '.join(MATERIALS)}")


def open_in(wording: str) -> tuple[str, ...]:
    """The blanks of a wording, in order; "?" if it is not a format string."""
    try:
        return tuple(blank for _, blank, _, _ in string.Formatter().parse(wording) if blank is not None)
    except ValueError:
        return ("?",)


def _mapping(value: Json, where: str) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise UserError(f"expected names and values, got {value!r}", where)
    return value


def _texts(value: Json, key: str, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise UserError(f"`{key}` is {value!r}", where, "give a list of texts")
    return tuple(cast(list[str], value))


def _three(value: Json, key: str, where: str, signed: bool) -> Rgb:
    valid = isinstance(value, list) and len(value) == 3 and all(type(one) in (int, float) for one in value)
    numbers = cast(list[float], value) if valid else []
    if not valid or (not signed and min(numbers) < 0) or max(map(abs, numbers)) > 4:
        raise UserError(f"`{key}` is {value!r}", where, "three metres" if signed else "three numbers for red, green and blue")
    return float(numbers[0]), float(numbers[1]), float(numbers[2])


def draw_scene(
    rng: np.random.Generator,
    count: int,
    variation: TabletopVariation = SEEN,
    receptacles: int = 0,
    shapes: Sequence[str] = tuple(SHAPES),
) -> Scene:
    """Draws a scene of the variation: names differ pairwise, receptacles come last. Without a variation the scene is exactly that
    of training's `sample_scene`.

    Args:
        count: number of movable objects, two or three; distractors are added as far as room and colours allow.
        receptacles: number of trays and plates in addition.
        shapes: shapes of the objects, unless the variation names the objects.
    """
    count = min(count + variation.distractors, SLOTS - receptacles)
    if variation.told_by == "shape":
        # There are two shapes only.
        count = 2
    names = _draw_names(rng, count, variation, shapes)
    while variation.told_by == "shape" and names[0][1] == names[1][1]:
        names = _draw_names(rng, count, variation, shapes)
    rest = [c for c in COLOURS if c not in [name[0] for name in names]]
    if receptacles:
        names += zip(rng.permutation(rest).tolist(), rng.permutation(list(RECEPTACLES))[:receptacles].tolist(), strict=False)
    while True:
        scene = arrange(rng, names)
        if _tellable(scene, variation.told_by):
            return scene


def _tellable(scene: Scene, told_by: str) -> bool:
    """Whether the objects are far enough apart, left to right, to be named by side or number."""
    if told_by == "side":
        return all(side_neighbour(scene, i) for i in (0, 1))
    positions = [scene[i].y for i in from_left(scene)]
    return told_by not in ("number", "symbol") or bool(min(np.diff(positions)) >= TELLING)


def from_left(scene: Scene) -> list[int]:
    """The movable objects from left to right, as the front camera sees them."""
    return sorted((i for i, o in enumerate(scene) if o.movable), key=lambda i: scene[i].y)


def side_neighbour(scene: Scene, index: int) -> tuple[str, int] | None:
    """The object on one side of which object `index` stands alone; None if there is none.

    Returns:
        the side, "left" or "right" as the front camera sees it, and the index of the other object.
    """
    order = from_left(scene)
    for side, (last, next_, *_) in (("left", order), ("right", order[::-1])):
        if last == index and abs(scene[last].y - scene[next_].y) >= TELLING:
            return side, next_
    return None


def _draw_names(
    rng: np.random.Generator, count: int, variation: TabletopVariation, shapes: Sequence[str]
) -> list[tuple[str, ...]]:
    """Draws `count` colours and shapes, and sizes if the variation has them. Colours differ unless the variation shares one."""
    if variation.objects:
        shape_of: dict[str, str] = {}
        for name in rng.permutation(list(variation.objects)).tolist():
            colour, shape = name.split()
            if len(shape_of) < count and colour not in shape_of:
                shape_of[colour] = shape
        return list(shape_of.items())
    if variation.shared_colour:
        colours, forms = rng.permutation(list(COLOURS)).tolist(), rng.permutation(list(shapes)).tolist()
        rest = [(c, str(rng.choice(list(shapes)))) for c in colours[1 : count - 1]]
        return [(colours[0], forms[0]), (colours[0], forms[1]), *rest]
    names = [(str(c), str(rng.choice(list(shapes)))) for c in rng.permutation(list(COLOURS))[:count]]
    if not variation.sizes:
        return list(names)
    sizes = rng.choice(["small", "large"], count).tolist()
    if rng.random() < 0.5:
        # The two then differ in size alone.
        names[1], sizes[1] = names[0], "large" if sizes[0] == "small" else "small"
    return [(*name, size) for name, size in zip(names, sizes, strict=True)]
