"""robosuite's own tasks: the same episode for the same seed, its own check of success, experts, rollouts, data, Gymnasium's
rules."""

import dataclasses
import json

import gymnasium
import numpy as np
import pytest

import vla.sim.gym  # noqa: F401 - registers the ids
from vla import cli
from vla.contract import PolicyContract
from vla.datasets.card import DatasetCard
from vla.datasets.robot import RobotSource
from vla.errors import UserError
from vla.evaluation.run import open_policy
from vla.observation import ActionChunk
from vla.report import records
from vla.sim.episodes import Episode
from vla.sim.registry import embodiment_of
from vla.sim.robosuite.embodiment import EMBODIMENTS
from vla.sim.robosuite.environment import Environment
from vla.sim.robosuite.experts import expert_action
from vla.sim.robosuite.simulation import RobosuiteSimulation
from vla.sim.robosuite.tasks import TASKS
from vla.sim.rollout import Workers, rollout
from vla.sim.suites import read_suite


@pytest.fixture(scope="module", params=["Lift", "Stack", "Door", "PickPlaceCan"])
def environment(request):
    made = Environment(request.param)
    yield made
    made.close()


def test_an_episode_is_a_function_of_its_seed(environment):
    def begin(seed):
        environment.reset(seed)
        return environment.state_hash(), environment.instruction

    first, said = begin(3)
    environment.step(np.ones(7))
    other, _ = begin(4)
    again, repeated = begin(3)
    assert first == again != other and said == repeated in environment.task.wordings


def test_expert_succeeds_by_robosuites_own_check(environment):
    environment.reset(0)
    assert not environment.success() and not environment.holds()
    held = False
    for _ in range(environment.task.horizon):
        environment.step(expert_action(environment))
        held |= environment.holds()
        if environment.success():
            break
    assert held and environment.success() and environment.env._check_success()


class Reaching:
    """Acts on what it sees, two actions at a time; remembers nothing."""

    contract = PolicyContract(EMBODIMENTS, chunk=2, execute=2, plan=())

    def reset(self, ids):
        pass

    def act(self, observations):
        return [ActionChunk(self._one(o), np.zeros(2, bool)) for o in observations]

    @staticmethod
    def _one(o):
        assert set(o.images) == {"agentview", "eye_in_hand"} and o.state.shape == (8,)
        seen = [image.mean() / 128 - 1 for image in o.images.values()]
        return np.array([[*seen, o.state[2] - 1, 0, 0, len(o.instruction) / 100, -1]] * 2)


def lines(results):
    return [{k: v for k, v in r.to_dict().items() if k != "seconds"} for r in results]


@pytest.mark.slow  # test_engine.py and test_tabletop.py have it for the evaluator
def test_rollouts_are_the_same_for_any_workers_and_whatever_ran_before():
    episodes = [
        Episode(seed, kind, horizon=6, task=task)
        for task in ("robosuite-Lift", "lift")
        for seed in (0, 1)
        for kind in ("correct", "nonsense")
    ]
    robosuite = episodes[:4]
    with Workers(2) as workers:
        one = rollout(Reaching(), robosuite, workers)
    with Workers(1) as workers:
        mixed = rollout(None, episodes, workers)
        other = rollout(Reaching(), robosuite[::-1], workers)[::-1]
        again = rollout(Reaching(), [dataclasses.replace(e, video=True) for e in robosuite[:1]], workers)
    assert lines(one) == lines(other) and lines(again) == lines(one[:1])
    assert [r.state for r in mixed[:4]] == [r.state for r in one] and len({r.state for r in mixed}) == 4
    assert {r.failure for r in one} == {"nothing grasped"} and one[0].target and not one[1].target
    assert len(again[0].frames) == 7 and again[0].frames[0].shape == (256, 512, 3) and len(again[0].actions) == 6


@pytest.fixture(scope="module")
def lift():
    made = RobosuiteSimulation()
    yield made
    made.close()


def test_what_an_episode_came_to(lift):
    done = lift.expert(Episode(1, task="robosuite-Lift"))
    assert done.success and done.executed and done.first == done.target and done.steps < 100
    told = lift.expert(Episode(1, task="robosuite-Lift", instruction="lift it"))
    assert told.success and told.instruction == "lift it" and told.steps == done.steps and told.state == done.state
    assert lift.expert(Episode(1, "empty", task="robosuite-Lift", horizon=3)).failure == "nothing grasped"
    assert lift.expert(Episode(1, task="robosuite-Lift", horizon=done.steps - 1)).failure == "timeout"
    lift.start(Episode(1, task="robosuite-Lift"), look=False)
    assert lift.step(np.zeros(7), True, False).failure == "terminated early"
    # What nobody asked for.
    lift.start(Episode(1, "empty", task="robosuite-Lift"), look=False)
    while lift.failure is None:
        lift.step(expert_action(lift.environment), False, False)
    assert lift.result().failure == "wrong object" and lift.result().executed


def test_suites_of_robosuites_tasks_and_what_they_cannot_have():
    data = {"tasks": ["robosuite-Lift", "lift"], "variations": {"seen": {}}, "kinds": ["correct", "empty"], "episodes": 2}
    suite = read_suite("a", data, "a.yaml")
    assert suite.horizons == {"robosuite-Lift": 200, "lift": 80} and len(suite.all()) == 8
    for change, says in (
        ({"kinds": ["correct", "swapped"]}, "one goal"),
        ({"variations": {"dim": {"light": [0.5, 0.5, 0.5]}}}, "cannot vary its light"),
    ):
        with pytest.raises(UserError, match=says):
            read_suite("a", {**data, **change}, "a.yaml")
    with pytest.raises(UserError, match="robosuite-Wipe has no scripted expert"):
        open_policy("expert", 1, ["robosuite-Lift", "robosuite-Wipe"])
    assert set(open_policy("random", 1, suite.tasks).contract.embodiments) == {"robosuite-panda", "panda-tabletop"}


def test_the_commands(tmp_path, capsys):
    data, out, film = tmp_path / "data", tmp_path / "out", tmp_path / "film.mp4"
    assert cli.main(["collect", "--task", "robosuite-Lift", "--episodes", "2", "--out", str(data), "--workers", "1"]) == 0
    card = DatasetCard.load(data)
    assert (card.embodiment, card.counts["episodes"]) == ("robosuite-panda", 2) and card.spec.control_hz == 20
    assert card.task == "robosuite-Lift"
    source = RobotSource(data, chunk=2)
    item = source.sample(0, np.random.default_rng(0))
    assert (
        set(item.images) == {"agentview", "eye_in_hand"}
        and item.state.shape == (8,)
        and item.instruction in TASKS["robosuite-Lift"].wordings
    )
    assert source.actions.max() <= 1 and source.actions.min() >= -1
    told = f"--task robosuite-Lift --horizon 4 --out {out} --record {tmp_path}/record --video {film}".split()
    assert cli.main(["rollout", "--policy", "random", *told]) == 0
    (episode,) = records.load(out).episodes
    assert episode.task == "robosuite-Lift" and episode.failure == "nothing grasped" and film.is_file()
    played = json.loads(film.with_suffix(".json").read_text())
    recorded = RobotSource(tmp_path / "record", chunk=1).actions
    assert played["hz"] == 20 and np.allclose(played["actions"], recorded, atol=1e-4)
    card = DatasetCard.load(tmp_path / "record")
    assert (card.embodiment, card.task) == ("robosuite-panda", "robosuite-Lift")
    assert cli.main(["rollout", "--policy", "random", "--task", "robosuite-Lift", "--kind", "swapped"]) == 2
    assert cli.main(["collect", "--task", "robosuite-Wipe", "--out", str(tmp_path / "no")]) == 2
    assert cli.main(["rollout", "--policy", "random", "--task", "robosuite-Fly"]) == 2
    said = capsys.readouterr().err
    assert "one goal" in said and "no scripted expert" in said and "robosuite-Lift" in said


def test_gymnasium_ids_and_episode():
    assert {f"vla/{name}-v0" for name in TASKS} <= set(gymnasium.registry)
    env = gymnasium.make("vla/robosuite-Lift-v0", horizon=3, render_mode="rgb_array")
    observation, info = env.reset(seed=1)
    assert env.observation_space.contains(observation) and info["instruction"] in TASKS["robosuite-Lift"].wordings
    assert env.render().shape == (256, 512, 3) and all(observation[c].std() > 5 for c in ("agentview", "eye_in_hand"))
    for step in range(3):
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert reward == 0 and not terminated and truncated == (step == 2)
    env.close()
    with pytest.raises(UserError, match="robosuite has no task 'Fly'"):
        Environment("Fly")


def test_the_robot_of_a_task_is_what_its_environment_has():
    env = gymnasium.make("vla/robosuite-Wipe-v0", horizon=2)
    name, body = embodiment_of("robosuite-Wipe")
    observation, _ = env.reset(seed=0)
    assert name == "robosuite-panda-wiper" and observation["state"].shape == (body.state.size,) == (6,)
    assert env.action_space.shape == (body.action.size,) == (env.unwrapped.environment.env.action_dim,)
    env.close()
