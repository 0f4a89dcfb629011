"""What the tests of the simulator share. A renderer is loaded after torch, which pytest_configure loads after this file."""

import pytest

from vla.sim.workers import Workers


@pytest.fixture(scope="session")
def table():
    """One for all tests: it takes seconds to make, and every test resets it."""
    from vla.sim.tabletop.tabletop import Tabletop

    made = Tabletop()
    yield made
    made.close()


@pytest.fixture(scope="session")
def worker():
    """One worker process for all tests: it takes seconds to start. What it ran before changes nothing."""
    with Workers(1) as made:
        yield made


@pytest.fixture(scope="session")
def install():
    """Writes into a folder what an installer writes for a package that has a simulator, e.g. point_simulator.py."""

    def write(folder, value="point_simulator:SIMULATOR"):
        about = folder / "point-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: point\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[vla.simulators]\npoint = {value}\n")

    return write
