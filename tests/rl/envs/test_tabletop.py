import functools
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("minigrid")
# Not robosuite itself: the renderer is chosen before mujoco is imported.
pytest.importorskip("vla.sim.tabletop.tabletop", exc_type=ImportError)

from vla.errors import UserError
from vla.models.load import load_vlm
from vla.observation import Observation
from vla.policies.load import load_policy
from vla.promptable.prompts import PromptTemplate
from vla.promptable.representation import PromptableRepresentation, Settings
from vla.rl.envs.registry import EnvironmentOptions
from vla.rl.envs.subprocess_vec_env import SubprocessVecEnv
from vla.rl.envs.tabletop import Tabletop
from vla.rl.learners.registry import LearnerOptions
from vla.rl.policies.options import PolicyOptions, PoolerOptions
from vla.rl.runs.options import BudgetOptions, RunOptions
from vla.rl.runs.runner import fit
from vla.sim.episodes import Episode
from vla.sim.tabletop.embodiment import EMBODIMENT
from vla.sim.tabletop.episodes import set_up
from vla.systems.pr2l.observation import PromptedObservation
from vla.systems.pr2l.prompted_vec_env import PromptedVecEnv


@pytest.fixture(scope="module")
def tables():
    """Two tables, each in its process."""
    venv = SubprocessVecEnv(functools.partial(Tabletop, "lift"), 2)
    yield venv
    venv.close()


def test_a_process_of_the_table_holds_no_torch():
    code = "import sys, vla.rl.envs.tabletop; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_observations_fit_and_name_the_goal_of_the_seed(tables):
    tables.seed(3)
    observations = tables.reset()
    for row, (seed, info) in enumerate(zip((3, 4), tables.reset_infos, strict=True)):
        assert tables.observation_space.contains({name: values[row] for name, values in observations.items()})
        assert info["fields"]["instruction"] == set_up(Episode(seed))[2] and info["fields"]["object"] in info["instruction"]
    assert (observations["state"][:, EMBODIMENT.state.size :].sum(1) == 2).all() and set(observations["oracle"].flat) <= {
        0.0,
        1.0,
    }


def test_actions_are_shares_of_the_limits(tables):
    tables.seed(3)
    tables.reset()
    before = tables.step(np.zeros((2, 5), np.float32))[0]["state"][:, :3]
    observations, rewards, dones, infos = tables.step(np.tile(np.array([1, 0, 0, 0, -1], np.float32), (2, 1)))
    moved = observations["state"][:, :3] - before
    assert (moved[:, 0] > 0.012).all() and (np.abs(moved[:, 1]) < 0.006).all()
    assert not rewards.any() and not dones.any() and not any(info["is_success"] for info in infos)


def test_one_call_of_the_model_sees_all_tables_also_where_an_episode_ends(tables, vlm, monkeypatch):
    calls = []
    settings = Settings(tokens=1, image=False, batch=4)
    represent = PromptableRepresentation(*load_vlm(vlm), PromptTemplate("Q: {object}? A:"), settings)
    original = type(represent)._compute
    monkeypatch.setattr(type(represent), "_compute", lambda self, *a: (calls.append(len(a[1])), original(self, *a))[1])
    venv = PromptedVecEnv(tables, represent, ("states",), Tabletop.fields)
    venv.seed(5)
    venv.reset()
    goals = [info["fields"]["object"] for info in tables.reset_infos]
    for _ in range(100):
        observations, _, dones, infos = venv.step(np.zeros((2, 5), np.float32))
        if dones.any():
            break
    assert dones.all() and calls == [2] * (len(calls) - 1) + [4]
    assert all(info["TimeLimit.truncated"] and info["terminal_observation"]["tokens"].any() for info in infos)
    assert [info["fields"]["object"] for info in tables.reset_infos] != goals and observations["tokens"].shape[0] == 2


def test_a_process_that_fails_is_named():
    venv = SubprocessVecEnv(functools.partial(Tabletop, "lift"), 1)
    try:
        venv._workers.all[0].process.kill()
        with pytest.raises(UserError, match="its process failed"):
            venv.reset()
    finally:
        venv.close()


def test_sac_learns_on_it_and_its_export_acts_within_the_limits(vlm, tmp_path):
    settings = Settings(tokens=2, batch=1, image=False, words=40)
    options = RunOptions(
        out=str(tmp_path / "run"),
        environment=EnvironmentOptions("tabletop/lift", 1),
        observation=PromptedObservation(str(vlm), prompt="Q: where is the {object}? A:", representation=settings),
        policy=PolicyOptions(PoolerOptions(width=16, hidden=16, out=8), net=[8]),
        learner=LearnerOptions("sac", {"learning_starts": 4, "batch_size": 4, "buffer_size": 100}),
        budget=BudgetOptions(8, 8),
    )
    fit(options)
    images = {camera.name: np.zeros((64, 64, 3), np.uint8) for camera in EMBODIMENT.cameras}
    observation = Observation("0", images, np.array(EMBODIMENT.state.high), "lift the red cube")
    action = load_policy(f"{options.out}/export").act([observation])[0].actions
    assert action.shape == (1, 7) and (np.abs(action) <= EMBODIMENT.action.high).all()
    # Killed between its last checkpoint and its record, it is finished by the same command.
    (tmp_path / "run/results.json").unlink()
    assert fit(options).record.steps == 8 and (tmp_path / "run/results.json").is_file()
    assert np.array_equal(load_policy(f"{options.out}/export").act([observation])[0].actions, action)
