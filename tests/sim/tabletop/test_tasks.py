"""The tabletop's tasks: wordings, conditions, classes of failure, swapped goals, and their experts."""

import dataclasses
import hashlib
import json
import tarfile

import numpy as np
import pytest

from vla.datasets.card import DatasetCard
from vla.sim.collect import collect
from vla.sim.collect_options import Collect
from vla.sim.episodes import Episode
from vla.sim.rollout import rollout
from vla.sim.tabletop import collect as collecting
from vla.sim.tabletop.episodes import EVALUATION, set_up
from vla.sim.tabletop.experts import done, expert_action
from vla.sim.tabletop.scene import APART, BESIDE, FLOOR, Object
from vla.sim.tabletop.tasks import TASKS
from vla.sim.tabletop.tasks.base import HOLD_STEPS, Goal, describe
from vla.sim.tabletop.tasks.outcome import Outcome
from vla.sim.tabletop.tasks.push import EDGE, MOVED
from vla.sim.tabletop.tasks.wording import known_objects, named_objects, named_side
from vla.sim.tabletop.variation import TabletopVariation

NEW = ("put", "push", "stack")
PLAIN, SIZED = TabletopVariation(), TabletopVariation("sizes", sizes=True)


def layouts(task, objects=2, variation=PLAIN, count=15):
    return [TASKS[task].draw(np.random.default_rng(seed), objects, variation) for seed in range(count)]


def act_out(table, goal, disturb=lambda step, action: action):
    """The expert's episode from where the table is."""
    outcome = Outcome(TASKS[goal.task], goal)
    while not outcome.over:
        table.step(disturb(outcome.steps, expert_action(table, goal)))
        outcome.update(table)
    return outcome


def test_lifting_is_what_it_was(table):
    """Recorded results and a trained policy depend on these scenes, sentences and outcomes."""
    lines = []
    for seed in range(51):
        for kind in ("correct", "swapped", "empty"):
            scene, goal, said = set_up(Episode(seed, kind))
            places = " ".join(f"{o.colour} {o.shape} {o.x:.6f} {o.y:.6f} {o.yaw:.6f}" for o in scene)
            lines.append(f"{seed} {kind} {goal and goal.target} {said} {places}")
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == "0ddacde9151d1fae"
    steps = []
    for seed in range(4):
        scene, goal, _ = set_up(Episode(seed))
        table.reset(scene, np.random.default_rng((EVALUATION, seed, 2)))
        steps.append(act_out(table, goal).steps)
    assert steps == [25, 28, 27, 28]


def test_scenes_and_sentences_of_the_other_tasks_are_what_they_were():
    digests = {}
    for task in NEW:
        lines = []
        for seed in range(21):
            for kind in ("correct", "swapped", "empty"):
                scene, goal, said = set_up(Episode(seed, kind, task=task))
                places = " ".join(f"{o.name} {o.x:.6f} {o.y:.6f} {o.yaw:.6f}" for o in scene)
                lines.append(f"{seed} {kind} {goal and (goal.target, goal.reference, goal.side)} {said} {places}")
        digests[task] = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert digests == {"put": "a34108f56e870684", "push": "4d9800e20bb31585", "stack": "6acc6ab1fb144603"}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("objects", [2, 3])
@pytest.mark.parametrize("variation", [PLAIN, SIZED], ids=lambda v: v.name)
def test_scenes_leave_room_and_goals_differ(task, objects, variation):
    for layout in layouts(task, objects, variation):
        names = [o.name for o in layout.scene]
        assert len(set(names)) == len(names) and sum(o.movable for o in layout.scene) == objects
        assert layout.goals[0] != layout.goals[1]
        assert all(o.size in ("small", "large") for o in layout.scene if o.movable) == variation.sizes
        for i, a in enumerate(layout.scene):
            for b in layout.scene[:i]:
                least = APART if not (a.movable or b.movable) else BESIDE if a.movable != b.movable else 0.1
                assert np.hypot(a.x - b.x, a.y - b.y) >= least
    assert layouts(task, objects, variation, 3) == layouts(task, objects, variation, 3)


@pytest.mark.parametrize("task", TASKS)
def test_every_wording_names_what_the_goal_is_about(task):
    said, rng = set(), np.random.default_rng(0)
    for layout in layouts(task, 2, SIZED, 40):
        for goal in layout.goals:
            sentence = TASKS[task].instruct(layout.scene, goal, rng)
            indices = [i for i in (goal.target, goal.reference) if i is not None]
            assert named_objects(sentence) == [layout.scene[i].name for i in indices]
            assert named_side(sentence) == goal.side and "{" not in sentence
            for name in named_objects(sentence):
                sentence = sentence.replace(name, "")
            said.add(sentence)
    assert len(said) >= 5


def test_into_a_tray_and_onto_a_plate():
    for layout in layouts("put"):
        for goal in layout.goals:
            sentence = TASKS["put"].instruct(layout.scene, goal, np.random.default_rng(0))
            assert (layout.scene[goal.reference].shape == "tray") == (" in" in sentence)


@pytest.mark.parametrize("task", NEW)
def test_swapped_and_correct_start_alike(table, task):
    for seed in range(4):
        scene, goal, said = set_up(Episode(seed, task=task))
        same, other, otherwise = set_up(Episode(seed, "swapped", task=task))
        assert scene == same and goal != other and said != otherwise
        assert set_up(Episode(seed, "empty", task=task)) == (scene, None, "")


def over(scene, index, upon, height):
    """The scene's pose of one object upon another, its underside so high (m) over the table."""
    return scene[upon].x, scene[upon].y, 0.8 + height + scene[index].half_height


def settle(table, scene, moved=()):
    """Puts the scene there, moves objects to places [x, y, z] and lets everything come to rest."""
    table.reset(scene)
    for index, place in moved:
        table.object_qpos(index)[:3] = place
    table.forward()
    for _ in range(3):
        table.step(np.array([0, 0, 0, 0, 0, 0, -1.0]))


SERVED = (
    Object("red", "cube", -0.05, -0.12, 0.0),
    Object("blue", "cylinder", 0.05, -0.12, 0.0),
    Object("white", "tray", 0.0, 0.03, 0.1),
    Object("green", "plate", 0.06, 0.16, 0.0),
)


def test_put_means_inside_and_let_go(table):
    put = TASKS["put"]
    settle(table, SERVED)
    assert not any(put.holds(table, g) for g in put.candidates(SERVED, None)) and len(put.candidates(SERVED, None)) == 4
    settle(table, SERVED, [(0, over(SERVED, 0, 2, FLOOR + 0.002)), (1, over(SERVED, 1, 3, 0.01))])
    held = [(g.target, g.reference) for g in put.candidates(SERVED, None) if put.holds(table, g)]
    assert held == [(0, 2), (1, 3)]
    # On the rim is not inside, and in the air over it neither.
    settle(table, SERVED, [(0, (0.075, 0.03, 0.83))])
    assert not put.holds(table, Goal("put", 0, 2))
    table.object_qpos(0)[:3] = over(SERVED, 0, 2, 0.1)
    table.forward()
    assert not put.holds(table, Goal("put", 0, 2))


def test_stack_means_on_top_of_the_right_one(table):
    stack = TASKS["stack"]
    scene = (*SERVED[:2], Object("green", "cube", 0.0, 0.1, 0.2))
    settle(table, scene, [(0, over(scene, 0, 2, 0.047))])
    assert [(g.target, g.reference) for g in stack.candidates(scene, None) if stack.holds(table, g)] == [(0, 2)]
    settle(table, scene, [(0, (0.047, 0.1, 0.823))])  # beside it
    assert not any(stack.holds(table, g) for g in stack.candidates(scene, None))


def test_push_means_moved_to_that_side_and_standing(table):
    push, goal = TASKS["push"], Goal("push", 0, side="left")
    scene = (Object("red", "cube", 0.0, 0.0, 0.0), Object("blue", "disc", 0.0, 0.12, 0.0))
    settle(table, scene)
    assert not push.holds(table, goal)
    settle(table, scene, [(0, (0.0, -EDGE - 0.01, 0.823))])
    assert push.holds(table, goal) and not push.holds(table, Goal("push", 0, side="right"))
    beside = [(0, (0.0, 0.03, 0.823))]
    settle(table, scene, beside)
    assert not push.holds(table, Goal("push", 0, 1, "left"))  # there, but hardly moved
    far = (dataclasses.replace(scene[0], y=-0.1), scene[1])
    settle(table, far, beside)
    assert push.holds(table, Goal("push", 0, 1, "left")) and not push.holds(table, Goal("push", 0, 1, "front"))
    settle(table, far, [*beside, (1, (0.06, 0.16, 0.816))])
    assert not push.holds(table, Goal("push", 0, 1, "left"))  # the reference has gone
    # What already is at a side has not been pushed there.
    assert Goal("push", 0, side="left") not in push.candidates(far, Goal("push", 0, side="right"))


def classify(table, goal, states, horizon=3 * HOLD_STEPS, terminate=-1):
    """The failure when the table goes through states: (first step, places of moved objects)."""
    outcome, step = Outcome(TASKS[goal.task], goal, horizon), 0
    while not outcome.over:
        for begin, moved in states:
            if begin == step:
                for index, place in moved:
                    table.object_qpos(index)[:3] = place
                table.forward()
        outcome.update(table, terminate=step == terminate)
        step += 1
    return outcome


def test_failures_of_putting(table):
    goal, inside = Goal("put", 0, 2), FLOOR + 0.001

    def run(states, **options):
        table.reset(SERVED)
        return classify(table, goal, states, **options)

    right = run([(2, [(0, over(SERVED, 0, 2, inside))])])
    assert right.success and right.executed and right.first == 0 and right.steps == HOLD_STEPS + 2
    wrong = run([(2, [(1, over(SERVED, 1, 2, inside))])])
    assert wrong.failure == "wrong object" and wrong.executed and wrong.first == 1
    place = run([(2, [(0, over(SERVED, 0, 3, 0.008))])])
    assert place.failure == "wrong place" and place.first == 0
    assert run([]).failure == "nothing grasped" and not run([]).executed
    assert run([(2, [(0, over(SERVED, 0, 2, inside))])], terminate=5).failure == "terminated early"
    # There for less than it takes.
    assert (
        run([(2, [(0, over(SERVED, 0, 2, inside))]), (2 + HOLD_STEPS - 1, [(0, (-0.05, -0.12, 0.823))])]).failure
        == "nothing grasped"
    )


def test_failures_of_pushing(table):
    scene, goal = (Object("red", "cube", 0.0, 0.0, 0.0), Object("blue", "disc", 0.05, -0.06, 0.0)), Goal("push", 0, side="left")

    def run(index, x, y):
        table.reset(scene)
        return classify(table, goal, [(1, [(index, (x, y, 0.8 + scene[index].half_height))])]).failure

    assert run(0, 0.0, -EDGE - 0.01) == ""
    assert run(0, 0.0, EDGE + 0.01) == "wrong place"
    assert run(1, 0.05 + 2 * MOVED, -0.06) == "wrong object"
    assert run(0, 0.0, -0.05) == "timeout"
    assert run(0, 0.0, 0.0) == "nothing grasped"


@pytest.mark.parametrize("opens, failure", [(34, "dropped"), (999, "timeout")])
def test_holding_on_and_letting_fall_are_told_apart(table, opens, failure):
    scene, goal = SERVED, Goal("put", 0, 2)
    table.reset(scene)
    outcome = Outcome(TASKS["put"], goal, 45)
    while not outcome.over:
        action = (
            expert_action(table, goal)
            if outcome.steps < 18
            else np.array([0, 0, 0.02, 0, 0, 0, 1.0 if outcome.steps < opens else -1.0])
        )
        table.step(action)
        outcome.update(table)
    assert outcome.failure == failure and outcome.touched


@pytest.mark.parametrize("task", NEW)
@pytest.mark.parametrize("seed, sizes", [(0, False), (1, False), (2, True)])
def test_expert_reaches_either_goal_and_only_then_is_done(table, task, seed, sizes):
    layout = TASKS[task].draw(np.random.default_rng(seed), 2 + seed % 2, TabletopVariation(sizes=sizes))
    goal = layout.goals[seed % 2]
    table.reset(layout.scene, np.random.default_rng(seed))
    outcome = Outcome(TASKS[task], goal)
    while not done(table, goal):
        assert outcome.steps < TASKS[task].horizon
        table.step(expert_action(table, goal))
        outcome.update(table)
    assert outcome.success


def test_a_users_sentence_sets_the_table():
    for task, sentence, names, side in (
        ("put", "put the red cube into the blue tray", ["red cube", "blue tray"], ""),
        ("push", "push the red disc to the right of the blue tile", ["red disc", "blue tile"], "right"),
        ("push", "push the green tile to the front", ["green tile"], "front"),
        ("stack", "stack the white cylinder on the red cube", ["white cylinder", "red cube"], ""),
    ):
        scene, goal, said = set_up(Episode(1, instruction=sentence, task=task))
        indices = [i for i in (goal.target, goal.reference) if i is not None]
        assert said == sentence and [scene[i].name for i in indices] == names and goal.side == side
        assert len({o.name for o in scene}) == len(scene) and all(n in known_objects() for n in names)
    assert set_up(Episode(0, instruction="put the red cube down", task="put"))[1] is None


def test_collected_demonstrations_say_what_they_show(tmp_path):
    counts = collect(Collect(str(tmp_path), task="put", episodes=1, workers=1, seed=3, clean=0.0))
    card = DatasetCard.load(tmp_path)
    assert card.name == "tabletop-put" and card.counts == counts and "put the {name} into the {reference}" in card.wordings
    with tarfile.open(next(tmp_path.glob("*.tar"))) as tar:
        described = [json.load(tar.extractfile(m)) for m in tar.getmembers() if m.name.endswith(".json")]
    assert named_objects(described[0]["instruction"]) == [described[0]["target"], described[0]["reference"]]
    assert described[-1]["terminate"] == 1 and len(described) == counts["steps"]


def test_a_demonstration_may_go_astray_to_the_object_that_its_own_belongs_on(table, monkeypatch):
    goal = Goal("stack", 0, reference=1)
    monkeypatch.setattr(collecting, "_table", table, raising=False)
    for seed in range(6):
        table.reset((Object("red", "cube", 0.0, 0.0, 0.0), Object("blue", "cube", 0.08, 0.1, 0.0)))
        before = table.state()
        collecting._wander(goal, np.random.default_rng(seed), Outcome(TASKS["stack"], goal, 800))
        assert not np.allclose(table.state(), before, atol=1e-3)


def test_rollouts_of_every_task_say_what_was_done(worker):
    """Recognition and language use compare `first` and `target`: goals that differ in their place alone must differ there."""
    episodes = [Episode(0, kind, task=task) for task in NEW for kind in ("correct", "swapped")]
    results = rollout(None, episodes, worker)
    for correct, swapped in zip(results[::2], results[1::2], strict=True):
        assert correct.success and swapped.success and correct.target != swapped.target
        assert (correct.first, swapped.first) == (correct.target, swapped.target)


@pytest.mark.parametrize("task", TASKS)
def test_no_two_goals_of_a_scene_are_described_alike(task):
    for layout in layouts(task, 3, SIZED, 5):
        candidates = set(TASKS[task].candidates(layout.scene, layout.goals[0])) | {*layout.goals}
        assert len({describe(layout.scene, goal) for goal in candidates}) == len(candidates)


def test_another_object_pushed_where_its_own_instruction_says_is_that_goal(table):
    scene = (Object("red", "cube", 0.0, 0.0, 0.0), Object("blue", "disc", 0.05, 0.06, 0.0))
    table.reset(scene)
    outcome = classify(table, Goal("push", 0, side="left"), [(1, [(1, (0.05, EDGE + 0.02, 0.8 + scene[1].half_height))])])
    assert outcome.failure == "wrong object" and outcome.reached == Goal("push", 1, side="right")


def test_nothing_asked_for_is_never_a_success(table):
    episode = Episode(0, "empty", task="stack", horizon=2)
    scene, goal, said = set_up(episode)
    outcome = Outcome(TASKS["stack"], goal, episode.horizon)
    table.reset(scene)
    while not outcome.over:
        outcome.update(table)
    assert outcome.failure == "nothing grasped" and said == ""
