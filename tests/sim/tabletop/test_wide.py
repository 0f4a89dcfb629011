"""The wide world: what questions alone have, told in words and looks that no demonstration and no suite has."""

import collections

import numpy as np
import pytest

from vla.errors import UserError
from vla.sim.collect import check, generator
from vla.sim.collect_options import Collect
from vla.sim.suites import known_suites, load_suite
from vla.sim.tabletop import questions, wide, wide_questions, words
from vla.sim.tabletop.scene import COLOURS, FLAT, RECEPTACLES, SHAPES, SIZES, UNSEEN_COLOURS, UNSEEN_SHAPES
from vla.sim.tabletop.scene_variation import SceneVariation
from vla.sim.tabletop.tasks import TASKS
from vla.sim.tabletop.variation import TabletopVariation


def test_no_look_is_a_suites():
    rng = np.random.default_rng(0)
    looks = [wide.draw_look(rng) for _ in range(200)]
    varied = [v for name in known_suites() for v in load_suite(name).variations]
    for field, least in (("table", 0.1), ("floor", 0.1), ("walls", 0.1), ("light", 0.1), ("camera", 0.03), ("raised", 0.008)):
        drawn = [getattr(look, field) for look in looks if field in look.changes]
        assert 0.6 < len(drawn) / len(looks) < 0.9
        for value in [getattr(v, field) for v in varied if field in v.changes]:
            assert value not in drawn
            if not isinstance(value, str):
                numbers = np.array([one for one in drawn if not isinstance(one, str)])
                assert np.linalg.norm((numbers - value).reshape(len(numbers), -1), axis=1).min() >= least


def test_the_suites_words_are_in_the_tables_and_in_no_demonstration():
    other, long, nouns = load_suite("rt2/paraphrases").variations
    tables = [*words.COLOURS.values(), *words.SHAPES.values()]
    assert all(any(word in table and word != own == table[0] for table in tables) for own, word in nouns.words.items())
    assert set(other.wordings) <= {request.replace("{it}", "the {name}") for request in words.VERBS.values()}
    assert not set(long.wordings) & {request.replace("{it}", "the {name}") for request in wide_questions.REQUESTS}
    assert list(words.COLOURS) == [*COLOURS, *UNSEEN_COLOURS] and list(words.SHAPES) == [*SHAPES, *UNSEEN_SHAPES]
    assert len({word for table in (*tables, *words.SIZES.values()) for word in table} | {*words.VERBS}) >= 24
    names = [*COLOURS, *SHAPES, *FLAT, *RECEPTACLES, *SIZES]
    said = [*names, *(w for task in TASKS.values() for w in task.wordings), *questions.vocabulary_corpus(numbers=True)]
    assert not words.HELD_OUT & set(" ".join(said).split())


def test_wide_is_for_questions_alone_and_told_by_the_card(tmp_path):
    with pytest.raises(UserError, match="lift with --wide"):
        check(Collect(str(tmp_path), wide=True))
    plain = generator(Collect("a", task="questions"))
    assert "wide" not in plain and generator(Collect("a", task="questions", wide=True)) == {**plain, "wide": True}


def named(phrase, scene):
    """The objects that a phrase's words fit."""
    own = {word: table[name][0] for table in (words.COLOURS, words.SHAPES, words.SIZES) for name in table for word in table[name]}
    said = {own[word] for word in phrase.split() if word in own}
    return [i for i, o in enumerate(scene) if said <= {o.colour, o.shape, o.size}]


@pytest.fixture(scope="module")
def asked(table):
    """Scenes of the wide world: per image the objects, their places in it, and the questions."""
    looks, images = SceneVariation(table), []
    poses = questions.collect_poses(table, np.random.default_rng(0), 3, wide.draw_scene)
    for image in range(90):
        rng = np.random.default_rng((1, image))
        looks.apply(wide.draw_look(rng))
        made = wide_questions.draw_image(table, poses, rng)
        assert table.grasped(0) == any(q["type"] == "holding" and q["answer"] == "yes" for q in made)
        images.append((table.scene, [table.project(i) for i in range(len(table.scene))], made))
    looks.apply(TabletopVariation())
    return images


def test_wide_questions_are_answered_from_the_state(asked):
    seen = collections.Counter()
    for scene, places, made in asked:
        order = sorted(range(len(scene)), key=lambda i: places[i][0])
        for q in made:
            said, answer = q["question"], q["answer"]
            seen[q["type"]] += 1
            assert "{" not in said and "the the" not in said and "  " not in said
            point = answer[0] if q["type"] in ("where", "meant") else None
            if " from the " in said and (point or q["type"] == "which"):
                symbols = [(n, f"number {s} from") for n, sums in words.SUMS.items() for s in (n, *sums)]
                symbols += [
                    (n, f"the {o} {t} from") for n, o in zip(words.NUMBERS, words.ORDINALS, strict=True) for t in words.THINGS
                ]
                (number,) = {words.NUMBERS.index(n) for n, phrase in symbols if phrase in said}
                target = (order if "left" in said else order[::-1])[number]
            elif point and not any(w in said for w in ("left of", "right of", "between", "front of", "behind", "est ")):
                (target,) = named(said, scene)
            elif q["type"] == "which" and " left of " in said:
                (other,) = named(said.partition(" left of ")[2], scene)
                assert order[:2] == [(target := order[0]), other]
            elif q["type"] in ("colour", "shape", "size"):
                (target,) = named(said.replace("small or large", "").replace("large or small", ""), scene)
                assert answer == getattr(scene[target], q["type"])
                continue
            else:
                continue
            assert np.allclose(point, places[target], atol=1e-3) if point else answer == scene[target].kind
    assert set(seen) == set(wide_questions.WORDINGS) and min(seen.values()) >= 20


def test_wide_answers_are_balanced_and_no_wording_gives_them_away(asked):
    answers = collections.defaultdict(list)
    for _, _, made in asked:
        for q in made:
            answers[q["type"]].append((q["question"], str(q["answer"])))
    most = {
        "relation": 0.65,
        "as many": 0.65,
        "sum": 0.65,
        "holding": 0.65,
        "size": 0.65,
        "count": 0.5,
        "colour": 0.25,
        "shape": 0.35,
    }
    for kind, share in (most | {"which": 0.15}).items():
        counts = collections.Counter(answer for _, answer in answers[kind])
        assert max(counts.values()) < share * len(answers[kind]), (kind, counts)
        # Nor by any one word of the question that is asked often.
        by_word = collections.defaultdict(collections.Counter)
        for said, answer in answers[kind]:
            for word in set(said.split()):
                by_word[word][answer] += 1
        for word, counts in by_word.items():
            if counts.total() >= 40:
                assert max(counts.values()) < (share + 0.15) * counts.total(), (kind, word, counts)


def test_a_caption_is_of_the_wide_world_and_of_its_image(asked):
    captions = [(scene, q["answer"]) for scene, _, made in asked for q in made if q["type"] == "caption"]
    for scene, text in captions:
        first = text.replace("the gripper holds ", "").split(" on the table")[0].split(" left of ")[0].split(" right of ")[0]
        assert named(first, scene)
    said = set(" ".join(text for _, text in captions).split())
    assert len(said & words.HELD_OUT) > 15
