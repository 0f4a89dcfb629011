"""LIBERO as data, its protocols, goals and resets, with a stand-in for the benchmark, which takes 1.2 GB."""

import dataclasses
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from vla import cli
from vla.contract import Camera, PolicyContract
from vla.errors import ContractMismatch, UserError
from vla.evaluation.run import open_policy, seen_by
from vla.observation import ActionChunk, Observation
from vla.sim.conventions import adapted, check_conventions
from vla.sim.episodes import Episode
from vla.sim.libero import resets
from vla.sim.libero.embodiment import EMBODIMENT, EMBODIMENT_NAME
from vla.sim.libero.goals import Progress, goal_of
from vla.sim.libero.protocols import PROTOCOLS
from vla.sim.libero.rendering import Rendering
from vla.sim.libero.simulation import LiberoSimulation
from vla.sim.libero.tasks import TASKS, suites
from vla.sim.libero.variation import LiberoVariation
from vla.sim.rollout import rollout
from vla.sim.simulator import View
from vla.sim.suites import load_suite, overridden, read_suite
from vla.sim.workers import Workers

PRO = [f"{base}-{change}" for base in ("spatial", "object", "goal", "10") for change in ("lan", "object", "swap", "task")]


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import stand_in

    return stand_in


@pytest.fixture
def nothing_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def episode(task="libero-goal-0", protocol="ours", **more):
    return Episode(more.pop("seed", 0), task=task, variation=LiberoVariation("seen", protocol), **more)


# Suites and tasks.


def test_all_suites_with_resources_are_known():
    assert sorted(suites()) == sorted(f"libero/{name}" for name in ["spatial", "object", "goal", "10", "90", *PRO])
    assert len(TASKS) == 290 and all(task.scenes == 50 for task in TASKS.values())
    suite = load_suite("libero/goal-swap")
    assert len(suite.all()) == 500 and suite.kinds == ("correct",) and suite.horizons == 300
    assert load_suite("libero/10", 3).episodes == 3 and len({load_suite(name).hash for name in suites()}) == len(suites())


def test_sentences_are_those_of_file_names_and_in_pro_of_the_descriptions():
    assert TASKS["libero-goal-0"].wordings == ("open the middle drawer of the cabinet",)
    assert TASKS["libero-90-0"].goal.instruction == "close the top drawer of the cabinet"
    assert TASKS["libero-goal-task-0"].file == TASKS["libero-goal-0"].file
    assert TASKS["libero-goal-task-0"].goal.instruction == "open the bottom drawer of the cabinet"
    assert TASKS["libero-object-lan-0"].goal.instruction == "grab alphabet soup and put it into basket"


def test_the_other_goal_is_of_the_scene_and_another_one():
    with_other = [task for task in TASKS.values() if task.other]
    assert len(with_other) >= 268 and all(task.goals == 2 for task in with_other)
    for task in with_other:
        own, other = set(task.goal.conditions), set(task.other.conditions)
        assert own - other and other - own and ("-task-" in task.name or not own & other)
        assert task.other.instruction != task.goal.instruction
    spatial = TASKS["libero-spatial-0"]
    assert spatial.other.instruction == "pick up the black bowl next to the ramekin and place it on the plate"
    assert spatial.other.conditions == (("on", "akita_black_bowl_2", "plate_1"),)
    assert TASKS["libero-goal-task-0"].other == TASKS["libero-goal-0"].goal
    assert goal_of(spatial, " Pick up the black bowl next to the ramekin and place it on the plate. ") is spatial.other
    assert goal_of(spatial, "fly") is None
    for said in (TASKS["libero-spatial-2"], TASKS["libero-goal-0"]):
        assert goal_of(spatial, said.goal.instruction) is None, "of another scene"
    assert goal_of(TASKS["libero-10-3"], "close the bottom drawer of the cabinet") is TASKS["libero-90-22"].goal


# Protocols.


def test_protocols_differ_in_identity_and_say_their_horizons():
    suite = load_suite("libero/spatial")
    by = {name: overridden(suite, {"protocol": name}, (), 0) for name in PROTOCOLS}
    assert len({one.hash for one in by.values()}) == 4 and by["ours"].hash == suite.hash
    assert {name: one.horizons for name, one in by.items()} == {"ours": 220, "openvla": 220, "openpi": 220, "lerobot": 280}
    assert {name: one.episodes for name, one in by.items()} == {"ours": 50, "openvla": 50, "openpi": 50, "lerobot": 10}
    fast = overridden(suite, {"protocol": "openvla", "rendering": "fast"}, ("correct", "swapped"), 2)
    assert fast.variations == (LiberoVariation("seen", "openvla", "fast"),) and len(fast.all()) == 40
    changed = dataclasses.replace(PROTOCOLS["ours"], hold=9)
    assert changed.hash != PROTOCOLS["ours"].hash


@pytest.mark.parametrize(
    ("name", "settings", "kinds", "episodes", "says"),
    [
        ("libero/goal-swap", {"protocol": "openvla"}, (), 0, "openvla does not know the suite libero/goal-swap"),
        ("libero/goal", {"protocol": "rt"}, (), 0, "unknown protocol 'rt'"),
        ("libero/goal", {"rendering": "nice"}, (), 0, "unknown rendering 'nice'"),
        ("libero/goal", {}, (), 51, "50 initial states, 0 to 49; 50 is asked for"),
        ("libero/goal-object", {}, ("swapped",), 0, "libero-goal-object-0 has one goal"),
        ("rt2/seen", {"protocol": "openvla"}, (), 0, "tabletop has no protocol to choose"),
    ],
)
def test_what_a_suite_cannot_have_is_named(name, settings, kinds, episodes, says):
    with pytest.raises(UserError, match=says):
        overridden(load_suite(name, episodes), settings, kinds, episodes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tasks": ["libero-goal-0", "lift"]}, "tasks of libero and tabletop in one suite"),
        ({"tasks": ["libero-goal-10"]}, "libero-spatial-0 … libero-10-task-9 \\(290 of libero\\)"),
        ({"seed": 49}, "51 is asked for"),
        ({"variations": {"a": {"protocol": "x"}}}, "variation 'a': unknown protocol 'x'"),
        ({"variations": {"a": {"light": 1}}}, "unknown field 'light'"),
        ({"variations": {"a": 3}}, "expected names and values"),
    ],
)
def test_a_users_suite_is_checked(change, says):
    data = {"tasks": ["libero-goal-0"], "variations": {"seen": None}, "episodes": 3, "kinds": ["correct"]}
    with pytest.raises(UserError, match=says):
        read_suite("mine", data | change, "mine.yaml")


def test_without_the_benchmark_its_size_and_the_command_are_said(nothing_installed, capsys, tmp_path):
    assert cli.main(["rollout", "--policy", "random", "--suite", "libero/goal", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "not installed" in error and "vla sim install libero" in error and "550 MB to download" in error
    with pytest.raises(UserError, match="not installed"):
        LiberoSimulation().start(episode())
    assert cli.main(["rollout", "--policy", "random", "--task", "libero-goal-0", "--seed", "50"]) == 2
    assert "50 initial states" in capsys.readouterr().err


# What the policy sees.


def test_images_are_those_of_the_protocol_and_of_the_policys_cameras(stand_in):
    drawer = stand_in.StandIn(TASKS["libero-goal-0"])
    for name, edge in (("ours", 256), ("openvla", 224), ("openpi", 224), ("lerobot", 360)):
        seen = Rendering(PROTOCOLS[name]).seen(drawer, None)
        assert list(seen) == ["agentview", "eye_in_hand"]
        assert all(image.shape == (edge, edge, 3) and image.dtype == np.uint8 for image in seen.values())
        assert seen["agentview"][:, : edge // 3].max() < 40 < 190 < seen["agentview"][:, -edge // 3 :].min(), "mirrored"
    wanted = (Camera("agentview", 64, 64), Camera("eye_in_hand", 64, 64, "mirrored"))
    seen = Rendering(PROTOCOLS["openvla"], cameras=wanted).seen(drawer, None)
    assert seen["agentview"].shape == (64, 64, 3) and seen["agentview"][:, :20].min() > 190 > 40 > seen["eye_in_hand"][0, 0, 0]


def test_cameras_of_the_contract_are_shown_and_other_robots_refused():
    cameras = tuple(Camera(name, 96, 96) for name in ("agentview", "eye_in_hand"))
    theirs = dataclasses.replace(EMBODIMENT, cameras=cameras)
    check_conventions(EMBODIMENT_NAME, adapted(EMBODIMENT, theirs), theirs, "policy")

    class Contracted:
        contract = PolicyContract({EMBODIMENT_NAME: theirs})

    assert seen_by(Contracted(), [episode()])[0].cameras == cameras and seen_by(None, [episode()])[0].cameras == ()
    assert seen_by(open_policy("random", 1, ["libero-goal-0"]), [episode()])[0].cameras == EMBODIMENT.cameras
    wide = dataclasses.replace(EMBODIMENT, cameras=(Camera("agentview", 96, 128), *cameras[1:]))
    joints = dataclasses.replace(EMBODIMENT, rotation="quaternion", mode="absolute")
    for other in (wide, joints):
        with pytest.raises(ContractMismatch):
            check_conventions(EMBODIMENT_NAME, adapted(EMBODIMENT, other), other, "policy")


# Episodes.


def run(simulation, chosen, x, steps=60, terminate=False):
    seen = simulation.start(chosen, True)
    for _ in range(steps):
        seen = simulation.step(np.array([x, 0, 0, 0, 0, 0, -1]), terminate, False)
        if not isinstance(seen, Observation):
            break
    return seen


def test_goals_are_told_apart_by_what_was_asked(stand_in):
    simulation = stand_in.make()
    task = TASKS["libero-goal-0"]
    done = run(simulation, episode(), 1.0)
    assert done.success and done.steps == 12 and done.target == done.first == task.goal.instruction, "held for ten steps"
    assert done.more["fixtures"]
    wrong = run(simulation, episode(), -1.0)
    assert wrong.failure == "wrong object" and wrong.first == task.other.instruction and wrong.executed
    swapped = run(simulation, episode(kind="swapped"), -1.0)
    assert swapped.success and swapped.instruction == swapped.target == swapped.first == task.other.instruction
    for kind in ("empty", "nonsense"):
        assert run(simulation, episode(kind=kind), 1.0).failure == "wrong object"
    assert run(simulation, episode(horizon=4), 0.0).failure == "nothing grasped"
    assert run(simulation, episode(), 0.0, terminate=True).failure == "terminated early"
    assert run(simulation, episode(instruction=task.other.instruction.upper()), -1.0).success, "a sentence of the user's"


def test_a_published_protocol_counts_the_first_instant_and_goes_on_after_the_other_goal(stand_in):
    simulation = stand_in.make()
    assert run(simulation, episode(protocol="openvla"), 1.0).steps == 3
    simulation.start(episode(protocol="openvla"))
    for x in [-1.0] * 4 + [1.0] * 8:
        ended = simulation.step(np.array([x, 0, 0, 0, 0, 0, -1]), False, False)
    assert ended.success and ended.first == TASKS["libero-goal-0"].other.instruction


def test_a_scene_goes_on_with_another_sentence_and_is_shown_unmirrored(stand_in):
    simulation = stand_in.make()
    simulation.start(episode(horizon=5))
    simulation.instruct(episode(instruction="Turn on the stove", horizon=5))
    assert simulation.view().goal == "turn on the stove", "another task of the scene"
    told = simulation.instruct(episode(instruction="fly to the moon", horizon=5))
    assert told.instruction == "fly to the moon" and told.images
    view = simulation.view()
    assert isinstance(view, View) and view.objects == ("bowl", "plate") and view.goal == ""
    assert view.images["agentview"][0, 0, 0] == 200 and told.images["agentview"][0, 0, 0] == 25
    film = run(simulation, episode(video=True, horizon=2), 0.0)
    assert len(film.frames) == 3 and film.frames[0].shape == (256, 512, 3) and len(film.actions) == 2


def test_workers_keep_their_task_and_results_keep_their_order(stand_in):
    class Right:
        contract = PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=2, execute=2, terminate=False)

        def reset(self, ids):
            pass

        def act(self, observations):
            return [ActionChunk(np.array([[1.0, 0, 0, 0, 0, 0, -1]] * 2), np.zeros(2, bool)) for _ in observations]

    chosen = [episode(f"libero-goal-{task}", seed=seed) for seed in range(3) for task in range(2)]
    with Workers(1, stand_in.make) as workers:
        results = rollout(Right(), chosen, workers)
    assert [result.key for result in results] == [one.key for one in chosen] and all(r.success for r in results)
    built = max((result.more["fixtures"]["built"] for result in results), key=len)
    assert built == ["libero-goal-0", "libero-goal-1"]


# Goals and resets.


def test_a_goal_must_hold_without_a_pause():
    task = TASKS["libero-goal-0"]
    progress, held = Progress([task.goal, task.other], 3), iter([1, 1, 0, 1, 1, 1])
    for expected in (0, 0, 0, 0, 0, 1):
        now = next(held)
        progress.update(lambda condition, now=now: bool(now) and condition in task.goal.conditions)
        assert (progress.reached is task.goal) == bool(expected)


class Benchmark:
    """Resets that draw, as the benchmark's do: a number for each drawer of each load, then a place, which may be refused."""

    def __init__(self, drawers):
        self.object_property_initializers = [object()] * drawers
        self.as_compiled, self._visualizations = {}, ()
        self.robots = [types.SimpleNamespace(gripper=types.SimpleNamespace(current_action=np.ones(1)))]
        nothing = types.SimpleNamespace(reset=lambda: None, forward=lambda: None, model=types.SimpleNamespace())
        self.sim = nothing

    def _reset_internal(self):
        self.drawn = [np.random.uniform() for _ in self.object_property_initializers]
        self.place = np.random.uniform()
        if self.place < 0.3:
            raise RandomizationError

    def visualize(self, vis_settings):
        pass

    def _update_observables(self, force):
        pass


class RandomizationError(Exception):
    pass


def stock(protocol, count):
    """The draws of the benchmark's own loop: every load adds the drawers once more."""
    made, drawers, rows = Benchmark(2), Benchmark(2).object_property_initializers, []
    if protocol.seeded == "task":
        np.random.seed(protocol.seed)
    for number in range(count):
        if protocol.seeded == "episode":
            np.random.seed(protocol.seed + number)
            made.object_property_initializers = drawers * (protocol.loads - 1)
        while True:
            made.object_property_initializers = made.object_property_initializers + drawers
            try:
                made._reset_internal()
            except RandomizationError:
                continue
            break
        rows.append((made.drawn, made.place))
    return rows


@pytest.mark.parametrize("name", PROTOCOLS)
def test_resets_in_any_order_draw_what_the_benchmarks_own_draw_in_turn(name, monkeypatch):
    errors = types.ModuleType("robosuite.utils.errors")
    errors.RandomizationError = RandomizationError
    monkeypatch.setitem(sys.modules, "robosuite.utils.errors", errors)
    made, protocol = Benchmark(2), PROTOCOLS[name]
    ours, expected = resets.Resets(made), stock(protocol, 8)
    for number in (5, 0, 7, 5, 1):
        ours.reset(protocol, number)
        assert (made.drawn, made.place) == expected[number]
        assert made.robots[0].gripper.current_action == 0
