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


@pytest.fixture(scope="session")
def install():
    """Writes into a folder what an installer writes for a package that has a simulator, e.g. point_simulator.py."""

    def write(folder, value="point_simulator:SIMULATOR"):
        about = folder / "point-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: point\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[vla.simulators]\npoint = {value}\n")

    return write
