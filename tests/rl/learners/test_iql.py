"""A chain of five places: one action leads on, the more frequent other one leads nowhere."""

import pytest
import torch

pytest.importorskip("stable_baselines3")
pytest.importorskip("minigrid")

from vla.promptable.head import Head
from vla.rl.learners.behaviour_cloning import BehaviourCloning, CloningOptions
from vla.rl.learners.demonstrations import TransitionBatch
from vla.rl.learners.iql import IQL, IQLOptions

PLACES = 5
SEEN = {"numbers": torch.eye(PLACES)}


@pytest.fixture(scope="module")
def chain():
    """At each place, twice the action 1, to the next place or to the end, and three times the action -1, which stays."""
    at = torch.arange(PLACES).repeat_interleave(5)
    actions = torch.tensor([1.0, 1.0, -1.0, -1.0, -1.0]).repeat(PLACES)
    then = torch.where(actions > 0, at + 1, at)
    done = (then == PLACES).float()
    numbers = {"numbers": torch.eye(PLACES)[then.clamp_max(PLACES - 1)]}
    ones = torch.ones(len(at))
    return TransitionBatch({"numbers": torch.eye(PLACES)[at]}, actions[:, None], ones[:, None], done, numbers, ones)


def trained(kind, settings, batch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        learner = kind(lambda out, more: Head(PLACES + more, out, net=(32,)), 1, settings)
    for _ in range(300):
        learner.update(batch)
    with torch.no_grad():
        return learner, torch.tanh(learner.networks["actor"](SEEN))[:, 0]


def test_what_is_nearer_to_the_end_is_worth_more_and_the_head_goes_there(chain):
    settings = IQLOptions(learning_rate=1e-2, expectile=0.9, temperature=10.0, discount=0.8, follow=0.1)
    learner, written = trained(IQL, settings, chain)
    with torch.no_grad():
        worth = learner.networks["value"](SEEN)[:, 0]
    assert (worth.diff() > 0.05).all() and 0.8 < worth[-1] < 1.1 and (written > 0.5).all()


def test_cloning_does_what_is_done_most(chain):
    _, written = trained(BehaviourCloning, CloningOptions(learning_rate=1e-2), chain)
    assert (written < -0.5).all()
