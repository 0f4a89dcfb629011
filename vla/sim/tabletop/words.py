"""What the tabletop's things, deeds and numbers are called: data alone.

The first word of a tuple is the simulator's own. Demonstrations have the first words of training's colours, shapes and sizes, and
no verb of VERBS; questions of the wide world have all of it. The suites take their words from here.
"""

from __future__ import annotations

from vla.sim.tabletop.scene import UNSEEN_COLOURS, UNSEEN_SHAPES

COLOURS = {
    "red": ("red", "crimson", "scarlet"),
    "green": ("green", "emerald"),
    "blue": ("blue", "azure"),
    "yellow": ("yellow", "golden"),
    "purple": ("purple", "violet"),
    "white": ("white", "ivory"),
    "orange": ("orange", "amber"),
    "turquoise": ("turquoise", "cyan"),
    "pink": ("pink", "rosy"),
    "brown": ("brown", "chestnut"),
}
SHAPES = {
    "cube": ("cube", "block", "brick"),
    "cylinder": ("cylinder", "tin", "tube"),
    "ball": ("ball", "sphere"),
    "drum": ("drum", "barrel"),
    "cone": ("cone", "pylon"),
}
SIZES = {"small": ("small", "little"), "large": ("large", "big")}
THINGS = ("object", "one", "thing")
"""Nouns for any object."""
VERBS = {
    "hoist": "hoist {it}",
    "get": "get {it} off the table",
    "elevate": "elevate {it}",
    "fetch": "fetch me {it}",
    "hand": "hand me {it}",
    "retrieve": "retrieve {it}",
    "seize": "seize {it}",
    "heave": "heave up {it}",
}
"""Verb -> a request to lift something."""
NUMBERS = ("one", "two", "three", "four")
ORDINALS = ("first", "second", "third", "fourth")
SYMBOLS = {
    "one": ("a unicorn has horns", "an elephant has trunks"),
    "two": ("a bird has legs", "a bicycle has wheels"),
    "three": ("a tricycle has wheels", "a traffic light has lamps"),
    "four": ("a dog has legs", "a car has wheels"),
}
"""Phrases that stand for a number, after "as many as"."""
SUMS = {
    "one": ("two minus one", "three minus two", "four minus three"),
    "two": ("one plus one", "three minus one", "four minus two"),
    "three": ("one plus two", "two plus one", "four minus one"),
    "four": ("one plus three", "two plus two", "three plus one"),
}
HELD_OUT = frozenset(
    {*UNSEEN_COLOURS, *UNSEEN_SHAPES, *VERBS}
    | {word for table in (COLOURS, SHAPES, SIZES) for words in table.values() for word in words[1:]}
)
"""Words that no demonstration has, and that questions of the wide world teach."""
