"""One simulated table for all tests of this folder: it takes seconds to make and every test resets it."""

import pytest

from vla.sim.tabletop import Tabletop


@pytest.fixture(scope="session")
def table():
    made = Tabletop()
    yield made
    made.close()
