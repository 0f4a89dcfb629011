"""The Gymnasium environments keep Gymnasium's rules and the rollout's episodes."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import vla.sim.gym  # noqa: F401 - registers the ids
from vla.errors import UserError
from vla.sim.episodes import Episode
from vla.sim.tabletop.episodes import set_up
from vla.sim.tabletop.experts import expert_action
from vla.sim.tabletop.variation import TabletopVariation


@pytest.fixture(scope="module")
def env():
    made = gymnasium.make("vla/Lift-v0", render_mode="rgb_array", horizon=40)
    yield made
    made.close()


def test_gymnasiums_own_checks(env):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, skip_render_check=True)
    env.reset(seed=0)
    assert env.render().shape == (256, 512, 3) and env.render().any()


def test_a_seed_is_the_rollouts_episode_and_the_expert_is_rewarded(env):
    observation, info = env.reset(seed=4, options={"kind": "swapped"})
    assert info["instruction"] == env.unwrapped.instruction == set_up(Episode(4, "swapped"))[2]
    assert observation["front"].dtype == np.uint8 and observation["state"].shape == (5,)
    simulation, total, over = env.unwrapped._simulation, 0.0, False
    while not over:
        action = expert_action(simulation.table, simulation.outcome.goal).astype(np.float32)
        observation, reward, terminated, truncated, info = env.step(action)
        total, over = total + reward, terminated or truncated
    assert total == 1 and terminated and not truncated and info["success"] and info["first"] == info["target"]


def test_horizon_truncates_and_options_are_checked(env):
    env.reset(seed=0, options={"kind": "empty", "variation": TabletopVariation("blue", table=(0.1, 0.1, 0.6))})
    for _ in range(40):
        observation, _, terminated, truncated, info = env.step(np.array([0, 0, 0, 0, 0, 0, -1], np.float32))
    assert truncated and not terminated and info["failure"] == "nothing grasped"
    assert observation["front"][40:, :, 2].mean() > 2 * observation["front"][40:, :, 0].mean()
    for wrong in ({"kind": "rude"}, {"colour": "red"}, {"variation": "blue"}):
        with pytest.raises(UserError, match="kind is one of"):
            env.reset(options=wrong)
