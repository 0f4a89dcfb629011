"""Environments by name, and what a policy sees of them."""

import sys
import types

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

pytest.importorskip("stable_baselines3")
pytest.importorskip("minigrid")

from vla.errors import UserError
from vla.rl.envs import registry
from vla.rl.envs.babyai import BabyAI
from vla.rl.envs.observation import EnvironmentObservation
from vla.rl.envs.registry import EnvironmentOptions, environment_class, make_vec_env


class Counter(gymnasium.Env):
    """Ends after three steps; sees how many there were."""

    fields = ("instruction",)
    needs_process = False

    def __init__(self, name):
        self.name, self.count = name, 0
        number = spaces.Box(0, 9, (1,), np.float32)
        image = spaces.Box(0, 255, (4, 4, 3), np.uint8)
        self.observation_space = spaces.Dict({"front": image, "state": number, "more": number})
        self.action_space = spaces.Discrete(2)

    def _observation(self):
        number = np.array([self.count], np.float32)
        return {"front": np.full((4, 4, 3), self.count, np.uint8), "state": number, "more": number}

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return self._observation(), {"fields": {"instruction": self.name}}

    def step(self, action):
        self.count += 1
        return self._observation(), 1.0, self.count == 3, False, {"fields": {"instruction": self.name}}


def test_an_environment_is_found_by_the_start_of_its_name():
    assert environment_class("BabyAI-GoToObj-v0") is BabyAI
    with pytest.raises(UserError, match="names begin with BabyAI- or tabletop/"):
        environment_class("CartPole-v1")


def test_another_environment_is_one_entry_and_is_seen_as_wished(monkeypatch):
    monkeypatch.setitem(sys.modules, "counting", types.SimpleNamespace(Counter=Counter))
    monkeypatch.setitem(registry.ENVIRONMENTS, "mine/", "counting:Counter")
    environments = make_vec_env(EnvironmentOptions("mine/counter", 2))
    wrapped = EnvironmentObservation(["pixels"]).wrap(environments, None, Counter.fields)
    assert set(wrapped.observation_space.spaces) == {"front", "state"} == set(wrapped.reset())
    assert environments.reset_infos[0]["fields"]["instruction"] == "counter"
    for _ in range(3):
        observations, _, dones, infos = wrapped.step(np.array([0, 0]))
    assert dones.all() and set(observations) == {"front", "state"} and not observations["state"].any()
    assert set(infos[0]["terminal_observation"]) == {"front", "state"} and infos[0]["terminal_observation"]["state"] == 3
    with pytest.raises(UserError, match="no oracle"):
        EnvironmentObservation(["oracle"]).wrap(environments, None, Counter.fields)
