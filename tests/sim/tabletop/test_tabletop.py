"""The simulated tabletop: scenes, projection, the expert, outcomes, questions, rollouts."""

import collections
import dataclasses
import json

import numpy as np
import pytest

from vla.contract import PolicyContract
from vla.datasets.held_out import check_held_out
from vla.datasets.robot import RobotSource
from vla.errors import ContractMismatch, UserError
from vla.observation import ActionChunk
from vla.sim.collect import collect
from vla.sim.collect_options import Collect
from vla.sim.rollout import Episode, Workers, rollout
from vla.sim.tabletop import questions
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME, SIZE
from vla.sim.tabletop.episodes import set_up
from vla.sim.tabletop.experts.grasp import lift_action
from vla.sim.tabletop.scene import REACH_X, REACH_Y, SPACING, Object, sample_scene
from vla.sim.tabletop.step_questions import ask_step, way
from vla.sim.tabletop.tasks import TASKS, find_task
from vla.sim.tabletop.tasks.base import HOLD_STEPS, Goal
from vla.sim.tabletop.tasks.lift import LIFTED
from vla.sim.tabletop.tasks.outcome import Outcome
from vla.sim.tabletop.tasks.wording import named_object
from vla.sim.tabletop.words import HELD_OUT, NUMBERS, SYMBOLS


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_scene_is_a_function_of_the_seed_and_keeps_its_distances(count):
    for seed in range(20):
        scene = sample_scene(np.random.default_rng(seed), count)
        assert scene == sample_scene(np.random.default_rng(seed), count)
        assert len({o.colour for o in scene}) == count
        assert all(REACH_X[0] <= o.x <= REACH_X[1] and REACH_Y[0] <= o.y <= REACH_Y[1] for o in scene)
        assert all(np.hypot(a.x - b.x, a.y - b.y) >= SPACING for a in scene for b in scene if a is not b)


def test_instruction_names_the_object_in_every_wording():
    scene = (Object("red", "cube", 0, 0, 0),)
    said = {TASKS["lift"].instruct(scene, Goal("lift", 0), np.random.default_rng(seed)) for seed in range(60)}
    assert len(said) >= 5 and all(named_object(s) == "red cube" for s in said)
    assert named_object("do something") is None
    with pytest.raises(UserError, match="unknown task 'fly'"):
        find_task("fly")


def test_projection_points_at_the_painted_object(table):
    """The image is brightest in the object's colour where `project` says that it is."""
    for y in (-0.12, 0.0, 0.12):
        table.reset((Object("red", "cube", 0.08, y, 0.3),))
        image = table.render("front").astype(int)
        assert image.shape == (SIZE, SIZE, 3)
        red = image[..., 0] - image[..., 1:].max(-1) > 60
        rows, columns = np.nonzero(red)
        u, v = table.project(0)
        assert abs(columns.mean() / SIZE - u) < 0.03 and abs(rows.mean() / SIZE - v) < 0.04
        assert questions.visible(table, 0)


def test_state_follows_the_robot(table):
    table.reset(sample_scene(np.random.default_rng(0), 2))
    before = table.state()
    for _ in range(6):
        table.step(np.array([0.03, 0.02, -0.03, 0, 0, 0.1, -1]))
    moved = table.state() - before
    assert moved[0] > 0.02 and moved[1] > 0.01 and moved[2] < -0.02 and abs(moved[3]) > 0.1
    assert table.state()[4] > 0.07  # open
    space = EMBODIMENT.state
    assert all(low <= value <= high for low, value, high in zip(space.low, table.state(), space.high, strict=True))


def test_gripper_stays_in_its_workspace(table):
    """No row of actions leads where the state has no words for it."""
    table.reset(sample_scene(np.random.default_rng(0), 2))
    low, high = np.array(EMBODIMENT.state.low), np.array(EMBODIMENT.state.high)
    for action in ([0.06, 0.06, 0.06, 0, 0, 0.35, -1], [-0.06, -0.06, 0.06, 0, 0, -0.35, -1]):
        for _ in range(25):
            table.step(np.array(action))
        assert np.all(table.state()[:4] > low[:4] - 0.03) and np.all(table.state()[:4] < high[:4] + 0.03)


def test_what_is_not_drawn_is_not_seen(table):
    """Images are the same with the meshes that are left out for speed."""
    rng = np.random.default_rng(0)
    groups = table.model.geom_group.copy()
    links = [
        g for g in range(table.model.ngeom) if "link" in table.model.body(table.model.geom_bodyid[g]).name and groups[g] in (2, 5)
    ]
    assert len(links) > 10
    for _ in range(6):
        table.reset(sample_scene(rng, 3), rng)
        for _ in range(10):
            table.step(np.append(rng.choice([-0.06, 0.06], 3), [0, 0, rng.uniform(-0.3, 0.3), 1]))
        plain = table.images()
        table.model.geom_group[links] = 1
        whole = table.images()
        table.model.geom_group[:] = groups
        assert all(np.abs(plain[c].astype(int) - whole[c]).max() < 8 for c in plain)


def test_reach_is_what_is_left_to_go(table):
    table.reset((Object("red", "cube", 0.05, -0.1, 0.4),))
    place, state = table.position(0), table.state()
    told = (np.array(questions.reach(table, 0)) + 0.5) / 128 - 1
    assert np.allclose(told[:3] * questions.REACH, np.clip(place - state[:3], -0.2, 0.2), atol=0.002)
    assert lift_action(table, 0)[5] == 0  # too far for a camera to tell
    assert told[3] * np.pi / 4 == pytest.approx(0.4, abs=0.1)


def test_arm_in_front_of_an_object_hides_it(table):
    table.reset((Object("red", "cube", -0.08, 0.0, 0.0),))
    assert questions.visible(table, 0)
    for _ in range(20):
        state = table.state()
        table.step(np.array([*np.clip((0.05 - state[0], -state[1], 0.08 - state[2]), -0.06, 0.06), 0, 0, 0, -1]))
    image = table.render("front").astype(int)
    red = (image[..., 0] - image[..., 1:].max(-1) > 60).sum()
    assert questions.visible(table, 0) == (red > 8)


def test_reset_repeats_exactly(table):
    def run():
        table.reset(sample_scene(np.random.default_rng(3), 3), np.random.default_rng(4))
        for _ in range(5):
            table.step(np.array([0.02, 0.0, -0.04, 0, 0, 0.05, 1]))
        return table.data.qpos.copy(), table.render("wrist")

    (first, one), (again, two) = run(), run()
    assert np.array_equal(first, again) and np.array_equal(one, two)


@pytest.mark.parametrize("seed", range(4))
def test_expert_lifts_the_named_object_and_no_other(table, seed):
    table.reset(sample_scene(np.random.default_rng(seed), 3), np.random.default_rng(seed))
    outcome = Outcome(TASKS["lift"], Goal("lift", seed % 3))
    while not outcome.over:
        table.step(lift_action(table, seed % 3))
        outcome.update(table)
    assert outcome.success and outcome.first == seed % 3


def test_expert_turns_with_a_cube(table):
    """Its yaw is live: over the cube, another yaw of the cube gives another rotation."""
    table.reset(())
    x, y = table.state()[:2]
    turns = []
    for yaw in (-0.5, 0.0, 0.5):
        table.reset((Object("red", "cube", x + 0.05, y, yaw),))
        turns.append(lift_action(table, 0)[5])
    assert turns[0] < turns[1] - 0.2 and turns[1] < turns[2] - 0.2


@dataclasses.dataclass
class Heights:
    """A table on which objects are as high as they are told, and stay where they are."""

    scene: tuple = (Object("red", "cube", 0.0, -0.1, 0.0), Object("blue", "cube", 0.0, 0.1, 0.0))
    heights: tuple = (0.0, 0.0)

    def position(self, index):
        return np.array([self.scene[index].x, self.scene[index].y, 0.02 + self.heights[index]])

    def lift(self, index):
        return self.heights[index]

    def grasped(self, index):
        return self.heights[index] > 0

    def touched(self, index):
        return self.heights[index] > 0

    def upright(self, index):
        return True


def play(target, heights, terminate=(), horizon=30):
    outcome = Outcome(TASKS["lift"], None if target is None else Goal("lift", target), horizon)
    for step in range(horizon):
        outcome.update(Heights(heights=heights(step)), terminate=step in terminate)
        if outcome.over:
            break
    return outcome


def test_outcome_success_needs_ten_steps_in_a_row():
    up = LIFTED + 0.001
    outcome = play(0, lambda t: (up, 0.0))
    assert outcome.success and outcome.steps == HOLD_STEPS
    broken = play(0, lambda t: (0.0 if t == HOLD_STEPS - 1 else up, 0.0))
    assert broken.success and broken.steps == 2 * HOLD_STEPS


def test_outcome_failures():
    up = LIFTED + 0.001
    assert play(0, lambda t: (0.0, up)).failure == "wrong object"
    assert play(0, lambda t: (0.0, 0.0)).failure == "nothing grasped"
    assert play(0, lambda t: (up if t < 5 else 0.0, 0.0)).failure == "dropped"
    assert play(0, lambda t: (up if t > 24 else 0.0, 0.0)).failure == "timeout"
    assert play(0, lambda t: (up, 0.0), terminate={3}).failure == "terminated early"
    assert play(None, lambda t: (up, 0.0)).failure == "wrong object"
    # The right one in the end is no success if another was up before.
    late = play(0, lambda t: (0.0, up) if t < 3 else (up, 0.0))
    assert late.failure == "wrong object before" and late.first == 0 and not late.success


def test_questions_are_answered_from_the_state(table):
    rng = np.random.default_rng(0)
    poses = questions.collect_poses(table, rng, 2)
    seen, near = set(), 0
    for _ in range(40):
        asked = questions.draw_image(table, poses, rng)
        held = [table.grasped(i) for i in range(len(table.scene))]
        assert not any(table.touched(i) for i in range(1, len(held))) and table.touched(0) == held[0]
        near += not held[0] and np.hypot(*(table.position(0) - table.state()[:3])[:2]) < 0.05
        for question in asked:
            seen.add(question["type"])
            names = [o.name for o in table.scene]
            if question["type"] == "where":
                name = next(n for n in names if n in question["question"])
                assert np.allclose(question["answer"][0], table.project(names.index(name)), atol=1e-3)
            if question["type"] == "count":
                assert question["answer"] == questions.COUNTS[len(names)]
            if question["type"] == "list":
                assert sorted(question["answer"][::2]) == sorted(names)
                assert question["answer"][1::2] == sorted(question["answer"][1::2])
    assert seen == set(questions.TYPES) and near > 5


def test_numbers_are_asked_after_all_else_and_answered_from_the_state(table):
    poses, answers = questions.collect_poses(table, np.random.default_rng(0), 2), []
    for image in range(40):
        plain = questions.draw_image(table, poses, np.random.default_rng((1, image)))
        asked = questions.draw_image(table, poses, np.random.default_rng((1, image)), numbers=True)
        assert asked[: len(plain)] == plain
        order = sorted(table.scene, key=lambda o: table.project(table.scene.index(o))[0])
        for question in asked[len(plain) :]:
            said = question["question"]
            if question["type"] == "number":
                (place,) = [i for i, n in enumerate(NUMBERS) if f"number {n} from" in said]
                assert question["answer"] == order[place].name
            else:
                (number,) = [n for n, symbols in SYMBOLS.items() if any(s in said for s in symbols)]
                assert question["answer"] == ("yes" if number == NUMBERS[len(order) - 1] else "no")
                answers.append(question["answer"])
    assert 0.25 < answers.count("yes") / len(answers) < 0.75 and len(answers) > 10


def test_a_step_of_a_demonstration_is_asked_about_as_it_is(table):
    table.reset((Object("red", "cube", 0.05, -0.1, 0.1), Object("blue", "cylinder", -0.05, 0.1, 0)))
    answers, rng = collections.defaultdict(set), np.random.default_rng(0)
    for _ in range(24):
        offsets = {o.name: table.position(i) - table.state()[:3] for i, o in enumerate(table.scene)}
        held = {o.name for i, o in enumerate(table.scene) if table.grasped(i)}
        for q in ask_step(table, rng):
            answers[q["type"]].add(str(q["answer"]))
            if q["type"] == "held":
                assert {q["answer"]} == (held or {"nothing"})
            if q["type"] == "way":
                (offset,) = [o for name, o in offsets.items() if name in q["question"]]
                axis = ("forward back", "right left", "up down")[np.abs(offset).argmax()].split()
                assert q["answer"] == axis[int(offset[np.abs(offset).argmax()] < 0)]
        table.step(lift_action(table, 0))
    assert answers["held"] == {"nothing", "red cube"} and len(answers["way"]) > 1 and len(answers["where"]) > 2


def test_a_way_is_that_of_most_of_the_offset():
    along = {"forward": (0.1, 0.03, 0), "back": (-0.1, 0, 0.03), "left": (0, -0.1, 0), "right": (0, 0.1, 0)}
    for answer, offset in (along | {"up": (0, 0, 0.05), "down": (0.03, 0, -0.1)}).items():
        assert way(np.array(offset)) == answer
    assert way(np.array((0.1, 0.09, 0))) == way(np.array((0, 0.02, 0))) == ""


@pytest.mark.slow
def test_questions_on_steps_change_nothing_else(tmp_path):
    for name, share in (("plain", 0.0), ("asked", 0.5)):
        collect(Collect(str(tmp_path / name), episodes=2, workers=1, step_questions=share))
    plain, asked = (RobotSource(tmp_path / name) for name in ("plain", "asked"))
    with_questions = 0
    for i in range(len(plain.index)):
        one, other = plain.index.read(i), asked.index.read(i)
        info = json.loads(other.pop("json"))
        with_questions += bool(info.pop("questions", []))
        assert json.loads(one.pop("json")) == info and one == other
    assert 0.3 < with_questions / len(plain.index) < 0.7
    assert check_held_out(tmp_path / "asked", HELD_OUT) == len(plain.index)


def test_swapped_and_correct_episodes_share_the_scene():
    for seed in range(10):
        (scene, goal, said), (same, other, otherwise) = set_up(Episode(seed)), set_up(Episode(seed, "swapped"))
        assert scene == same and goal != other
        assert named_object(said) == scene[goal.target].name and named_object(otherwise) == scene[other.target].name
        assert set_up(Episode(seed, "empty"))[1:] == (None, "")


@pytest.mark.parametrize("seed", range(6))
def test_a_users_sentence_puts_its_object_on_the_table(seed):
    scene, goal, said = set_up(Episode(seed, instruction="please lift the white cylinder"))
    assert scene[goal.target].name == "white cylinder" and said == "please lift the white cylinder"
    assert len({o.colour for o in scene}) == len(scene) >= 2


class Descend:
    """A policy of no wits: down, from the state that it is given."""

    contract = PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=2, execute=2)

    def __init__(self, value=0.0):
        self.value, self.calls = value, 0

    def reset(self, ids):
        pass

    def act(self, observations):
        self.calls += 1
        assert all(set(o.images) == {"front", "wrist"} for o in observations)
        action = np.array([[0.0, 0.0, -0.02 - o.state[2] / 100, 0, 0, 0, -1] for o in observations]) + self.value
        return [ActionChunk(np.stack([a, a]), np.zeros(2, bool)) for a in action]


@pytest.mark.slow  # collecting has it, below, and test_engine.py
def test_rollout_is_the_same_for_any_number_of_workers(worker):
    episodes = [Episode(i, horizon=4) for i in range(3)]

    def run(workers):
        return [(r.seed, r.steps, r.failure, r.instruction, r.more["objects"]) for r in rollout(Descend(), episodes, workers)]

    with Workers(2) as two:
        assert run(worker) == run(two)


def test_policy_that_answers_nan_is_refused(worker):
    with pytest.raises(ContractMismatch, match="NaN"):
        rollout(Descend(np.nan), [Episode(0, horizon=4)], worker)


def test_collected_data_does_not_depend_on_the_number_of_workers(tmp_path):
    for name, workers in (("one", 1), ("two", 2)):
        collect(Collect(str(tmp_path / name), episodes=2, workers=workers))
    read = [sorted((tmp_path / n).glob("shard-*.tar")) for n in ("one", "two")]
    assert [p.read_bytes() for p in read[0]] == [p.read_bytes() for p in read[1]]
