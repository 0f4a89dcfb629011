"""robosuite's own tasks: the same episode for the same seed, its own check of success, experts, Gymnasium's rules."""

import gymnasium
import numpy as np
import pytest

import vla.sim.gym  # noqa: F401 - registers the ids
from vla.errors import UserError
from vla.sim.experts.stock import stock_action
from vla.sim.stock import STOCK_TASKS, Stock


@pytest.fixture(scope="module", params=["Lift", "Stack"])
def stock(request):
    made = Stock(request.param)
    yield made
    made.close()


def test_an_episode_is_a_function_of_its_seed(stock):
    def begin(seed):
        stock.reset(seed)
        return stock.env.sim.data.qpos.copy(), stock.instruction

    first, said = begin(3)
    stock.step(np.ones(7))
    other, _ = begin(4)
    again, repeated = begin(3)
    assert np.array_equal(first, again) and said == repeated in stock.task.wordings
    assert not np.array_equal(first, other)


def test_expert_succeeds_by_robosuites_own_check(stock):
    stock.reset(0)
    assert not stock.success()
    for _ in range(stock.task.horizon):
        stock.step(stock_action(stock))
        if stock.success():
            break
    assert stock.success() and stock.env._check_success()


def test_gymnasium_ids_and_episode():
    assert {f"vla/robosuite-{name}-v0" for name in STOCK_TASKS} <= set(gymnasium.registry)
    env = gymnasium.make("vla/robosuite-Lift-v0", horizon=3, render_mode="rgb_array")
    observation, info = env.reset(seed=1)
    assert env.observation_space.contains(observation) and info["instruction"] in STOCK_TASKS["Lift"].wordings
    assert env.render().shape == (256, 512, 3) and observation["front"].std() > 5 and observation["wrist"].std() > 5
    for step in range(3):
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert reward == 0 and not terminated and truncated == (step == 2)
    env.close()
    with pytest.raises(UserError, match="robosuite has no task 'Fly'"):
        Stock("Fly")
