"""The random policy: its actions are in the space and a function of stream and step."""

import numpy as np

from vla.observation import Observation
from vla.policies.load import load_policy
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME


def draw(policy, stream, steps):
    observation = Observation(stream, {}, np.zeros(5), "", EMBODIMENT_NAME)
    return np.concatenate([policy.act([observation])[0].actions for _ in range(steps)])


def test_random_actions_are_in_the_space_and_repeat():
    policy = load_policy("random", embodiments={EMBODIMENT_NAME: EMBODIMENT})
    first = draw(policy, "a", 50)
    space = EMBODIMENT.action
    assert np.all(first >= space.low) and np.all(first <= space.high) and np.all(first[:, 3:5] == 0)
    assert first[:, 0].std() > 0.02 and not np.array_equal(first, draw(policy, "b", 50))
    policy.reset(["a"])
    assert np.array_equal(first, draw(policy, "a", 50))
