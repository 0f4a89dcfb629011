"""Suites and variations as data: what is read, what is refused, what is drawn."""

import pytest

from vla.errors import UserError
from vla.sim.registry import simulator_of
from vla.sim.suites import Suite, known_suites, load_suite, read_suite
from vla.sim.tabletop.episodes import set_up
from vla.sim.tabletop.variation import TabletopVariation

SUITE = {"tasks": ["lift"], "variations": {"seen": {}}, "episodes": 2}


@pytest.mark.parametrize("name", known_suites())
def test_every_packaged_suite_is_whole(name):
    suite = load_suite(name)
    episodes = suite.all()
    assert suite.about and len({e.id for e in episodes}) == len(episodes) >= 50
    if simulator_of(suite.tasks[0]).name != "tabletop":
        return
    for episode in episodes[:: max(1, len(episodes) // 40)]:
        scene, goal, said = set_up(episode)
        assert 2 <= len(scene) <= 4 and (goal is None) == (episode.kind in ("empty", "nonsense"))
        assert bool(said) == (episode.kind != "empty")


def test_suites_are_known_by_name_and_differ():
    assert {"rt2/seen", "rt2/unseen-objects", "rt2/paraphrases"} <= set(known_suites())
    assert len({load_suite(name).hash for name in known_suites()}) == len(known_suites())
    with pytest.raises(UserError, match="unknown suite 'rt2/sen'") as refused:
        load_suite("rt2/sen")
    assert all(name in str(refused.value) for name in known_suites())


def test_hash_is_over_what_an_episode_is():
    one = read_suite("a", SUITE, "")
    assert one.hash == read_suite("b", {**SUITE, "about": "words", "kinds": ["correct", "swapped"]}, "").hash
    assert one.hash == read_suite("a", {**SUITE, "episodes": 3}, "").hash, "not over how many are run"
    for changed in ({"horizon": 3}, {"seed": 1}, {"kinds": ["correct"]}, {"variations": {"seen": {"light": [1, 1, 0.9]}}}):
        assert read_suite("a", {**SUITE, **changed}, "").hash != one.hash


def test_a_later_field_makes_no_other_suite():
    assert TabletopVariation().to_dict() == {"name": "seen"}
    assert TabletopVariation("dim", light=(0.5, 0.5, 0.5)).to_dict() == {"name": "dim", "light": (0.5, 0.5, 0.5)}


def test_a_file_of_the_users_is_a_suite_too(tmp_path):
    (tmp_path / "mine.yaml").write_text("tasks: lift\nvariations: {a: {colours: [red, pink]}}\nepisodes: 3\n")
    suite = load_suite(str(tmp_path / "mine.yaml"), episodes=4)
    assert suite.name == "mine" and suite.episodes == 4 and "pink cube" in suite.variations[0].objects


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"tasks": ["fly"]}, "known are lift, put, push, stack"),
        ({"tasks": []}, "`tasks` is missing"),
        ({"kinds": ["correct", "rude"]}, "'rude'"),
        ({"kinds": ["correct", "correct"]}, "each once"),
        ({"episodes": 0}, "`episodes` is 0"),
        ({"episodes": "many"}, "`episodes` is 'many'"),
        ({"variations": ["seen"]}, "not a mapping"),
        ({"variations": {"a": {"tabel": 1}}}, "variation 'a': unknown field 'tabel'"),
        ({"variations": {"a": {"objects": ["red dragon", "blue cube"]}}}, "unknown object 'red dragon'"),
        ({"variations": {"a": {"objects": ["red cube", "red cylinder"]}}}, "fewer than two colours"),
        ({"variations": {"a": {"wordings": ["lift it"]}}}, "{name}"),
        ({"variations": {"a": {"table": "marble"}}}, "unknown texture 'marble'"),
        ({"variations": {"a": {"light": [1, 1]}}}, "three numbers"),
        ({"variations": {"a": {"floor": [1, 1, -1]}}}, "three numbers"),
        ({"variations": {"a": {"camera": "left"}}}, "three metres"),
        ({"variations": {"a": {"raised": 0.2}}}, "`raised` is 0.2"),
        ({"variations": {"a": {"raised": "high"}}}, "`raised` is 'high'"),
        ({"variations": {"a": {"told_by": "number", "sizes": True}}}, "need not differ in their number"),
        ({"variations": {"a": {"distractors": 9}}}, "`distractors` is 9"),
        ({"variations": {"a": 3}}, "expected names and values"),
        ({"tasks": ["push"], "variations": {"a": {"shapes": ["ball"]}}}, "push cannot have a red ball"),
        ({"tasks": ["put"], "variations": {"a": {"wordings": ["put the {name} away"]}}}, "add one with {name} {reference}"),
        ({"tasks": ["push"], "variations": {"a": {"told_by": "side"}}}, "cannot be told by their side"),
        ({"variations": {"a": {"told_by": "size"}}}, "`told_by` is 'size'"),
        ({"variations": {"a": {"told_by": "shape", "shapes": ["ball"]}}}, "`objects` of one shape"),
        ({"variations": {"a": {"sizes": True, "shared_colour": True}}}, "exclude each other"),
        ({"variations": {"a": {"every_task": True, "sizes": True}}}, "exclude each other"),
        ({"variations": {"a": {"every_task": True, "distractors": 1}}}, "the table is full"),
    ],
)
def test_what_is_wrong_is_named(change, says):
    with pytest.raises(UserError) as refused:
        read_suite("mine", {**SUITE, **change}, "mine.yaml")
    assert says in str(refused.value) and "mine.yaml" in str(refused.value)


def test_horizon_is_each_tasks_own_unless_the_suite_has_one():
    assert Suite("a", ("lift", "put"), (TabletopVariation(),)).horizons == {"lift": 80, "put": 120}
    assert Suite("a", ("lift",), (TabletopVariation(),)).hash == Suite("a", ("lift",), (TabletopVariation(),), horizon=80).hash
