"""Suites on the tabletop: which scenes they draw and what is said."""

import numpy as np
import pytest

from vla.sim.episodes import Episode
from vla.sim.suites import load_suite, read_suite
from vla.sim.tabletop.episodes import set_up
from vla.sim.tabletop.questions import vocabulary_corpus
from vla.sim.tabletop.scene import COLOURS, SHAPES, UNSEEN_COLOURS, UNSEEN_SHAPES, sample_scene
from vla.sim.tabletop.tasks.lift import Lift
from vla.sim.tabletop.variation import draw_scene
from vla.sim.tabletop.words import NUMBERS, SYMBOLS


@pytest.mark.parametrize("task", ["put", "push", "stack"])
def test_every_task_takes_variations(task):
    variations = {
        "clutter": {"distractors": 1},
        "pink": {"colours": ["pink", "brown", "orange", "red"], "shapes": ["cube", "tile"]},
        "shared": {"shared_colour": True},
        "words": {
            "words": {"cube": "block", "tile": "block"},
            "wordings": ["{name} {reference}", "{name} {side}", "{name} {where} {reference}"],
        },
    }
    for episode in read_suite("a", {"tasks": [task], "variations": variations, "episodes": 4}, "").all():
        scene, goal, said = set_up(episode)
        objects = [o for o in scene if o.movable]
        name = episode.variation.name
        assert goal is not None and len(objects) == min(2 + episode.seed % 2 + (name == "clutter"), 4 - (task == "put"))
        assert name != "pink" or all(o.colour in variations["pink"]["colours"] for o in objects)
        assert name != "shared" or scene[0].colour == scene[1].colour
        assert name != "words" or (
            "cube" not in said and "tile" not in said and said.startswith(episode.variation.noun(scene[goal.target].name))
        )


def told(name):
    """A suite's episodes whose instruction names something."""
    return [episode for episode in load_suite(name).all() if episode.kind in ("correct", "swapped")]


def test_objects_are_told_by_what_questions_taught():
    taught = " ".join(vocabulary_corpus()).split()
    for episode in told("rt2/relations"):
        scene, goal, said = set_up(episode)
        item, by = scene[goal.target], episode.variation.told_by
        assert item.name not in said and set(said.split()) <= {*taught, "object"}
        if by == "colour":
            assert f"the {item.colour} object" in said and sum(o.colour == item.colour for o in scene) == 1
        elif by == "shape":
            assert f"the {item.shape}" in said and sum(o.shape == item.shape for o in scene) == 1
        else:
            side = "left" if "to the left of" in said else "right"
            (other,) = [o for o in scene if o.name in said]
            there = [o for o in scene if o is not other and (o.y < other.y) == (side == "left")]
            assert there == [item] and abs(item.y - other.y) >= 0.05


def test_numbers_and_what_stands_for_them_are_unique_and_taught():
    taught, plain = " ".join(vocabulary_corpus(numbers=True)).split(), vocabulary_corpus()
    assert not {"dog", "unicorn"} & set(" ".join(plain).split()) and vocabulary_corpus(numbers=True)[: len(plain)] == plain
    names, fours = set(), 0
    for episode in told("rt2/symbols"):
        scene, goal, said = set_up(episode)
        places = sorted(o.y for o in scene)
        number = places.index(scene[goal.target].y)
        assert min(np.diff(places)) >= 0.05 and set(said.split()) <= {*taught, "object", "that"}
        words = (f"number {NUMBERS[number]}",) if episode.variation.told_by == "number" else SYMBOLS[NUMBERS[number]]
        (found,) = [word for word in words if word in said]
        assert not any(o.colour in said or o.shape in said for o in scene)
        names.add(found)
        fours += number == 3
    assert len(names) >= 9 and fours


def test_without_a_variation_scenes_are_trainings():
    for seed in range(10):
        assert draw_scene(np.random.default_rng(seed), 3) == sample_scene(np.random.default_rng(seed), 3)


def test_what_is_unseen_is_in_no_scene_and_no_sentence_of_training():
    words = {word for text in vocabulary_corpus() for word in text.replace("?", " ").split()}
    assert not words & ({*UNSEEN_COLOURS, *UNSEEN_SHAPES, "block", "tin", "crimson", "violet", "hoist", "fetch", "elevate"})
    assert not {*UNSEEN_COLOURS} & {*COLOURS} and not {*UNSEEN_SHAPES} & {*SHAPES}
    for variation in load_suite("rt2/paraphrases").variations:
        assert not set(variation.wordings) & set(Lift.wordings)
        for seed in range(5):
            said, trainings = set_up(Episode(seed, variation=variation)), set_up(Episode(seed))
            assert said[0] == trainings[0] and (variation.words or said[2] != trainings[2])
    nouns = load_suite("rt2/paraphrases").variations[-1]
    assert nouns.noun("red cube") == "crimson block" and nouns.noun("green cylinder") == "green tin"


def test_variations_draw_what_they_say():
    for suite, allowed in (("rt2/unseen-colours", UNSEEN_COLOURS), ("rt2/unseen-objects", UNSEEN_SHAPES)):
        for episode in load_suite(suite).all():
            assert all(o.colour in allowed or o.shape in allowed for o in set_up(episode)[0])
    held, shared = load_suite("rt2/unseen-combinations").variations
    clutter = load_suite("rt2/unseen-environments").variations[-1]
    for seed in range(10):
        assert all(o.name in held.objects for o in set_up(Episode(seed, variation=held))[0])
        first, second = set_up(Episode(seed, variation=shared))[0][:2]
        assert first.colour == second.colour and first.shape != second.shape
        assert len(set_up(Episode(seed, variation=clutter))[0]) == 4


def test_scenes_of_all_kinds_and_looks_are_the_same():
    background = load_suite("rt2/unseen-backgrounds").variations[0]
    for seed in range(6):
        scenes = [set_up(Episode(seed, kind))[0] for kind in ("correct", "swapped", "empty", "nonsense")]
        assert all(scene == scenes[0] for scene in [*scenes, set_up(Episode(seed, variation=background))[0]])
        assert set_up(Episode(seed, "nonsense"))[1] is None
