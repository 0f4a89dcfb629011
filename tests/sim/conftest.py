"""What the tests of the simulator share."""

import functools
from pathlib import Path

import numpy as np
import pytest

from vla.contract import PolicyContract
from vla.observation import ActionChunk
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME
from vla.sim.tabletop.tabletop import Tabletop


@pytest.fixture(scope="session")
def table():
    """One for all tests: it takes seconds to make, and every test resets it."""
    made = Tabletop()
    yield made
    made.close()


class Seeing:
    """Acts on what it sees and is told, two actions at a time; remembers nothing."""

    contract = PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=3, execute=2)

    def __init__(self, spoil=None):
        self.spoil = spoil or (lambda observation, actions: actions)

    def reset(self, ids):
        pass

    def act(self, observations):
        return [ActionChunk(self.spoil(o, self._one(o)), np.zeros(3, bool)) for o in observations]

    @staticmethod
    def _one(o):
        assert set(o.images) == {"front", "wrist"}
        seen = np.array([p.mean() / 255 for p in o.images.values()] + [len(o.instruction) / 100])
        return np.array([[*0.02 * seen, 0, 0, o.state[0] / 10, -1]] * 3)


@pytest.fixture
def seeing():
    return Seeing


@pytest.fixture
def toy(monkeypatch):
    """Makes what worker processes hold instead of a simulator: toy(trouble, marker)."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    from toy_simulation import ToySimulation

    return lambda trouble="", marker="": functools.partial(ToySimulation, trouble, str(marker))
