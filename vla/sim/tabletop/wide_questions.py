"""Questions about images of the wide world: any object, in any words, told by its name or by its place among the others.

Answers are balanced within each type, and the wording does not give them away. Answers have the simulator's own words
(`vla.sim.tabletop.words`); those of the type *caption* have any. *caption*, *list* and *reach* are for training, not for testing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vla.sim.tabletop.questions import COUNTS, Pose, place_scene, reach, seen
from vla.sim.tabletop.questions import WORDINGS as NARROW
from vla.sim.tabletop.scene import Scene
from vla.sim.tabletop.tasks.lift import Lift
from vla.sim.tabletop.wide import draw_scene
from vla.sim.tabletop.words import COLOURS, NUMBERS, ORDINALS, SHAPES, SIZES, SUMS, SYMBOLS, THINGS, VERBS

if TYPE_CHECKING:
    from vla.sim.tabletop.tabletop import Tabletop

APART, DEEP = 0.08, 0.05
"""Least difference between two objects that a side tells apart: left to right (share of the image), front to back (m)."""
LARGER = 1.5
"""Least ratio of the volumes of two objects that are told by being the largest or the smallest."""
FILL = {"cube": 1.0, "cylinder": np.pi / 4, "drum": np.pi / 4, "ball": np.pi / 6, "cone": np.pi * 7 / 64}
"""The part of its box that a shape fills."""
REQUESTS = tuple(w.replace("the {name}", "{it}") for w in Lift.wordings) + tuple(VERBS.values())
"""Requests to lift something: all of training's, and others."""
SIDES = {"left of": -1, "to the left of": -1, "right of": 1, "to the right of": 1}
DEPTHS = {"in front of": 1, "behind": -1}
WORDINGS = {
    "where": ("where is {it}", "point at {it}", "locate {it}", "where can you see {it}", "find {it}", "show {it}"),
    "colour": ("what colour is {it}", "which colour has {it}", "tell the colour of {it}"),
    "shape": ("what shape is {it}", "which shape has {it}", "tell the shape of {it}"),
    "size": ("is {it} small or large", "is {it} large or small", "tell the size of {it}"),
    "count": tuple(w.replace("object", thing) for w in NARROW["count"] for thing in ("object", "thing")),
    "relation": ("is {a} {side} {b}",),
    "holding": NARROW["holding"],
    "list": NARROW["list"],
    "reach": ("where is {it} from the gripper", "locate {it} from the gripper"),
    "which": ("what is {it}", "tell what {it} is", "name {it}"),
    "as many": (
        "are there as many objects as {symbol}",
        "are the objects as many as {symbol}",
        "are there as many things as {symbol}",
    ),
    "sum": ("are there {sum} objects", "are the objects {sum}"),
    "meant": (
        "which one would you grab if asked to {request}",
        "where is the object that is meant by {request}",
        "locate what {request} is about",
        "point at what you need to {request}",
    ),
    "caption": ("describe the picture", "what does the picture show", "write a caption"),
}


class View:
    """A scene as the front camera sees it, and the phrases that tell its objects, whose words `rng` draws.

    Attributes:
        shown: indices of the visible objects; `inside` those well inside the image.
        point: where they are in the image.
    """

    def __init__(self, table: Tabletop, rng: np.random.Generator, held: bool):
        self.scene: Scene = table.scene
        self.shown, self.point, self.inside = seen(table)
        self.rng, self.held = rng, held

    @property
    def whole(self) -> bool:
        """Whether all objects are well inside the image: then it tells how many there are, and their order."""
        return len(self.inside) == len(self.scene)

    def spot(self, index: int) -> list[float]:
        return [round(c, 4) for c in self.point[index]]

    def word(self, words: Sequence[str]) -> str:
        """The simulator's own word in about half of the cases, else one that means the same."""
        return words[0] if len(words) == 1 or self.rng.random() < 0.4 else str(self.rng.choice(words))

    def described(self, index: int, has: Sequence[str] = ("size", "colour", "shape")) -> str:
        """Some of an object's size, colour and shape, in any words, without an article."""
        item = self.scene[index]
        words = [self.word(SIZES[item.size])] if item.size and "size" in has else []
        words += [self.word(COLOURS[item.colour])] if "colour" in has else []
        return " ".join([*words, self.word(SHAPES[item.shape] if "shape" in has else THINGS)])

    def name(self, index: int, without: str = "") -> str:
        """ "the", and what tells the object from all others; "" if that takes the attribute `without`."""
        fitting = [has for has in NAMES if without not in has and self._tells(index, has)]
        return f"the {self.described(index, fitting[self.rng.integers(len(fitting))])}" if fitting else ""

    def _tells(self, index: int, has: tuple[str, ...]) -> bool:
        own = [getattr(self.scene[index], name) for name in has]
        alike = sum([getattr(o, name) for name in has] == own for o in self.scene)
        return alike == 1 and all(own)

    def place(self, index: int) -> str:
        """A phrase that tells an object by its place or size among all others; "" if there is none."""
        found = list(self._places(index)) if self.whole and len(self.scene) > 1 else []
        return found[self.rng.integers(len(found))] if found else ""

    def _places(self, index: int) -> Iterator[str]:
        one = f"the {self.word(THINGS)}"
        yield from self.numbers(index)
        across = {i: self.point[i][0] for i in self.inside}
        deep = {i: o.x for i, o in enumerate(self.scene)}
        # What the gripper holds is above the table: how far in front it is, is not to be seen.
        for sides, values, least in ((SIDES, across, APART), ({} if self.held else DEPTHS, deep, DEEP)):
            for side, sign in sides.items():
                beyond = {b: [i for i in values if (values[i] - values[b]) * sign > 0] for b in values if b != index}
                for b in (b for b, there in beyond.items() if there == [index] and abs(values[index] - values[b]) > least):
                    yield f"{one} {side} {self.name(b)}"
        order = sorted(across, key=lambda i: across[i])
        at = order.index(index)
        if 0 < at < len(order) - 1 and self._apart(order):
            yield f"{one} between {self.name(order[at - 1])} and {self.name(order[at + 1])}"
        volume = {i: FILL[o.shape] * o.half_width**2 * o.half_height for i, o in enumerate(self.scene)}
        others = [v for i, v in volume.items() if i != index]
        if volume[index] > LARGER * max(others):
            yield f"the {self.rng.choice(['largest', 'biggest'])} {self.word(THINGS)}"
        if volume[index] * LARGER < min(others):
            yield f"the smallest {self.word(THINGS)}"

    def _apart(self, order: list[int]) -> bool:
        places = [self.point[i][0] for i in order]
        return all(b - a > APART for a, b in zip(places, places[1:], strict=False))

    def numbers(self, index: int) -> list[str]:
        """Phrases that tell an object by its number from the left or the right."""
        order = sorted(self.inside, key=lambda i: self.point[i][0])
        if not self._apart(order):
            return []
        phrases = []
        for side, at in (("left", order.index(index)), ("right", len(order) - 1 - order.index(index))):
            number = NUMBERS[at]
            phrases += [f"number {number} from the {side}", f"number {self.rng.choice(SUMS[number])} from the {side}"]
            phrases.append(f"the {ORDINALS[at]} {self.word(THINGS)} from the {side}")
        return phrases


NAMES = (("colour", "shape"), ("size", "colour", "shape"), ("colour",), ("shape",), ("size", "shape"), ("size", "colour"))
"""Attributes that may tell an object."""


def draw_image(table: Tabletop, poses: list[Pose], rng: np.random.Generator, objects: int = 0) -> list[dict]:
    """As `vla.sim.tabletop.questions.draw_image`, of the wide world. The table has the image's look already."""
    # Nothing reaches into a table that is higher than the one on which the poses were found.
    clear = [pose for pose in poses if pose.height > table.raised + 0.005]
    return ask(table, rng, place_scene(table, clear, rng, draw_scene, objects))


def ask(table: Tabletop, rng: np.random.Generator, held: bool) -> list[dict]:
    """Draws questions about the present scene, their order and their wordings."""
    view, questions = View(table, rng, held), []
    scene, point = view.scene, view.point

    def say(kind: str, answer: str | list, **words: str) -> None:
        if all(words.values()):
            questions.append({"type": kind, "question": str(rng.choice(WORDINGS[kind])).format(**words), "answer": answer})

    def yes_or_no(kind: str, right: Mapping[str, Sequence[str]], number: str, blank: str) -> None:
        yes = bool(rng.random() < 0.5)
        other = str(rng.choice([n for n in NUMBERS if n != number]))
        say(kind, "yes" if yes else "no", **{blank: str(rng.choice(right[number if yes else other]))})

    for i in rng.permutation(view.inside)[:2].tolist():
        say("where", [view.spot(i)], it=view.name(i))
    for i in rng.permutation(view.inside)[:2].tolist():
        phrase = view.place(i) if rng.random() < 0.5 else ""
        say("meant", [view.spot(i)], request=str(rng.choice(REQUESTS)).format(it=phrase or view.name(i)))
    for i in rng.permutation(view.inside)[:2].tolist():
        if phrase := view.place(i):
            say("which", scene[i].kind, it=phrase)
            say("where", [view.spot(i)], it=phrase)
    for i in rng.permutation(view.shown)[:1].tolist():
        say("reach", reach(table, i), it=view.name(i))
        say("colour", scene[i].colour, it=view.name(i, "colour"))
        say("shape", scene[i].shape, it=view.name(i, "shape"))
    for i in rng.permutation([i for i in view.shown if scene[i].size])[:1].tolist():
        say("size", scene[i].size, it=view.name(i, "size"))
    if view.whole:
        order = sorted(view.inside, key=lambda i: point[i][0])
        say("list", [part for i in order for part in (scene[i].kind, view.spot(i))])
    if len(view.shown) == len(scene):
        number = COUNTS[len(scene)]
        say("count", number)
        yes_or_no("as many", SYMBOLS, number, "symbol")
        yes_or_no("sum", SUMS, number, "sum")
    pairs = [(i, j) for i in view.inside for j in view.inside if abs(point[i][0] - point[j][0]) > APART]
    if pairs:
        a, b = pairs[rng.integers(len(pairs))]
        side = str(rng.choice(list(SIDES)))
        yes = (point[a][0] - point[b][0]) * SIDES[side] > 0
        say("relation", "yes" if yes else "no", a=view.name(a), b=view.name(b), side=side)
    if held or rng.random() < 0.35 / 0.65:
        say("holding", "yes" if held else "no")
    if view.inside:
        say("caption", caption(view))
    return questions


def caption(view: View) -> str:
    """A sentence on one or two objects of an image, in any words."""
    first, *others = view.rng.permutation(view.inside).tolist()
    text = with_article(view.described(first))
    if view.held and first == 0:
        return f"the gripper holds {text}"
    across = {i: view.point[i][0] - view.point[first][0] for i in others}
    beside = [i for i in others if abs(across[i]) > APART]
    if not beside:
        return f"{text} on the table"
    other = beside[0]
    side = str(view.rng.choice([words for words, sign in SIDES.items() if across[other] * sign < 0]))
    return f"{text} {side} {with_article(view.described(other))}"


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
