"""Scenes in which every task is possible, and goals of other tasks than the one asked for."""

import json
import tarfile

import numpy as np
import pytest

from vla.datasets.card import DatasetCard
from vla.sim.collect import collect
from vla.sim.collect_options import Collect
from vla.sim.suites import load_suite
from vla.sim.tabletop.about import about
from vla.sim.tabletop.episodes import set_up
from vla.sim.tabletop.experts import done, expert_action
from vla.sim.tabletop.questions import draw_every_shape
from vla.sim.tabletop.scene import FLAT, FLOOR, RECEPTACLES, Object
from vla.sim.tabletop.tasks import TASKS
from vla.sim.tabletop.tasks.base import HOLD_STEPS, Goal
from vla.sim.tabletop.tasks.outcome import Outcome
from vla.sim.tabletop.tasks.push import EDGE
from vla.sim.tabletop.tasks.together import draw_together

SCENE = (
    Object("red", "disc", -0.06, -0.03, 0.0),
    Object("blue", "tile", 0.06, -0.06, 0.0),
    Object("green", "cube", -0.06, 0.13, 0.0),
    Object("white", "tray", 0.07, 0.08, 0.0),
)
LIFT, PUT, PUSH, STACK = Goal("lift", 0), Goal("put", 0, 3), Goal("push", 0, side="left"), Goal("stack", 0, 1)
HIGH = 0.8 + SCENE[0].half_height
PLACES = {
    "lift": (-0.06, -0.03, HIGH + 0.08),
    "put": (0.07, 0.08, HIGH + FLOOR + 0.001),
    "push": (-0.06, -EDGE - 0.02, HIGH),
    "stack": (0.06, -0.06, HIGH + 2 * SCENE[1].half_height + 0.001),
}
"""Where object 0 is when the goal of each task about it is reached."""


def test_a_scene_is_the_same_under_every_sentence():
    suite = load_suite("tabletop/four")
    assert suite.tasks == tuple(TASKS) and suite.episodes == 40 and suite.kinds == ("correct", "swapped")
    by_seed = {}
    for episode in (episode for episode in suite.all() if episode.seed < 6):
        scene, goal, said = set_up(episode)
        assert goal is not None and goal.task == episode.task
        by_seed.setdefault(episode.seed, []).append((scene, goal, said, episode.kind))
    scenes = {seed: cases[0][0] for seed, cases in by_seed.items()}
    assert len(set(scenes.values())) == 6
    for seed, cases in by_seed.items():
        assert all(scene == scenes[seed] for scene, *_ in cases)
        assert len({said for _, _, said, _ in cases}) == len({goal for _, goal, _, _ in cases}) == 8
        assert {goal.target for _, goal, _, kind in cases if kind == "correct"} == {0}


def test_each_task_is_possible_with_the_first_object_and_the_next():
    pushes = set()
    for seed in range(16):
        scene, goals = draw_together(np.random.default_rng(seed))
        assert set(goals) == set(TASKS)
        assert {o.shape for o in scene[:2]} <= {*FLAT} and scene[3].shape in RECEPTACLES and scene[2].movable
        assert len({o.colour for o in scene}) == 4
        for task, (correct, swapped) in goals.items():
            assert correct != swapped and correct.target == 0 and swapped.target < 2
            assert {correct, swapped} <= set(TASKS[task].open_goals(scene))
        pushes.add((goals["push"][0].side, goals["push"][0].reference is None))
    assert len(pushes) >= 5


def go_through(table, goal, states, horizon=40):
    """The outcome when object 0 is at a place from each step on; nothing moves by itself."""
    table.reset(SCENE)
    outcome = Outcome(TASKS[goal.task] if goal else TASKS["put"], goal, horizon)
    while not outcome.over:
        if outcome.steps in states:
            table.object_qpos(0)[:3] = states[outcome.steps]
            table.forward()
        outcome.update(table)
    return outcome


@pytest.mark.parametrize("asked", [LIFT, PUT, PUSH, STACK], ids=lambda goal: goal.task)
def test_the_goal_of_another_task_is_noted_unless_it_is_a_part(table, asked):
    for task, place in PLACES.items():
        outcome = go_through(table, asked, {2: place})
        noted = {goal.task for goal in outcome.others}
        if task == asked.task:
            assert outcome.success and not noted
        else:
            assert noted == ({task} if task not in TASKS[asked.task].parts else set()), task
            assert {goal.target for goal in outcome.others} <= {0}
            # The episode goes on, and ends as if nothing had been noted.
            assert outcome.steps == 40 and outcome.failure not in ("", "wrong object", "wrong place")


def test_what_is_noted_changes_no_success(table):
    outcome = go_through(table, PUT, {2: PLACES["push"], 20: PLACES["put"]})
    assert outcome.success and outcome.others[0] == PUSH
    # Not for long enough.
    assert not go_through(table, PUT, {2: PLACES["push"], 2 + HOLD_STEPS - 1: PLACES["put"]}).others
    assert not go_through(table, None, {2: PLACES["push"]}).others


def test_receptacles_are_no_objects_of_other_tasks():
    for task, goal in (("lift", LIFT), ("push", PUSH), ("stack", STACK)):
        for found in (TASKS[task].candidates(SCENE, goal), TASKS[task].sayable(SCENE), TASKS[task].open_goals(SCENE)):
            assert found and all(SCENE[g.target].movable for g in found)
            assert all(g.reference is None or SCENE[g.reference].movable for g in found)


def test_what_was_carried_to_a_side_was_not_pushed_there(table):
    table.reset(SCENE)
    outcome = Outcome(TASKS["stack"], STACK)

    def act(action):
        table.step(action)
        outcome.update(table)

    while table.lift(0) < 0.04:
        act(expert_action(table, LIFT))
    while table.position(0)[1] > -EDGE - 0.03:
        act(np.array([0, -0.03, 0, 0, 0, 0, 1.0]))
    while table.lift(0) > 0.005:
        act(np.array([0, 0, -0.02, 0, 0, 0, 1.0]))
    for step in range(2 * HOLD_STEPS):
        act(np.array([0, 0, 0.02 * (step > 3), 0, 0, 0, -1.0]))
    assert TASKS["push"].holds(table, PUSH) and not outcome.others and not outcome.over


def test_the_plan_leads_to_where_a_held_object_belongs(table):
    table.reset(SCENE)
    there, here = pytest.approx(table.project(3), abs=1e-3), about(table, PUT, destinations=True)
    assert here == about(table, PUT) and here["point"] != there
    while not table.grasped(0):
        table.step(expert_action(table, PUT))
    held = about(table, PUT, destinations=True)
    assert held["point"] == there and held["target"] == "red disc" and about(table, PUT)["point"] != there
    while not done(table, PUT):
        table.step(expert_action(table, PUT))
    assert about(table, PUT, destinations=True) == about(table, PUT), "let go of"


@pytest.mark.parametrize("behind", [False, True])
def test_the_plan_of_a_push_leads_to_what_it_ends_beside_while_the_gripper_is_down(table, behind):
    drawn = ((scene, goals["push"][0]) for scene, goals in (draw_together(np.random.default_rng(seed)) for seed in range(60)))
    scene, goal = next((s, g) for s, g in drawn if g.reference is not None and (g.side == "front") == behind)
    table.reset(scene)
    leads = []
    while not done(table, goal):
        facts, plain = about(table, goal, destinations=True), about(table, goal)
        leads.append(facts != plain)
        assert not leads[-1] or table.state()[2] < 0.05
        table.step(expert_action(table, goal))
        assert len(leads) < 120
    assert not leads[0] and not leads[-1] and sum(leads) >= 4


def test_questions_are_about_flat_objects_and_receptacles_too():
    scenes = [draw_every_shape(np.random.default_rng(seed), 1 + seed % 4) for seed in range(40)]
    shapes = {o.shape for scene in scenes for o in scene}
    assert shapes == {"cube", "cylinder", *FLAT, *RECEPTACLES}
    assert all(o.movable for scene in scenes for o in scene[: max(1, len(scene) - 1)])


def test_demonstrations_are_collected_in_such_scenes(tmp_path):
    options = Collect(str(tmp_path), task="lift", episodes=1, workers=1, seed=3, clean=1.0, every_task=True)
    collect(options)
    generator = DatasetCard.load(tmp_path).generator
    assert generator["every_task"] and "destinations" not in generator
    with tarfile.open(next(tmp_path.glob("*.tar"))) as tar:
        described = next(json.load(tar.extractfile(m)) for m in tar.getmembers() if m.name.endswith(".json"))
    assert described["target"] == draw_together(np.random.default_rng((3, 2, 0)))[0][0].name
