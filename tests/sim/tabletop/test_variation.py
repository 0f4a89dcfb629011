"""Variations on the simulator: put on without recompiling, taken off without a trace."""

import dataclasses

import numpy as np
import pytest

from vla.sim.episodes import Episode
from vla.sim.rollout import Workers, rollout
from vla.sim.tabletop.simulation import TabletopSimulation
from vla.sim.tabletop.variation import TabletopVariation

EVERYTHING = TabletopVariation(
    "everything",
    objects=("orange ball", "pink drum", "turquoise ball"),
    distractors=1,
    table="floorplane",
    floor=(0.9, 0.1, 0.1),
    walls=(0.1, 0.9, 0.1),
    light=(0.8, 0.9, 1.1),
    camera=(-0.05, 0.04, 0.03),
    raised=-0.03,
)


@pytest.fixture(scope="module")
def simulation():
    made = TabletopSimulation()
    yield made
    made.table.close()


def test_after_any_variation_state_and_pixels_are_a_fresh_processs(simulation):
    plain, varied = Episode(3, video=True, horizon=8), Episode(3, video=True, horizon=8, variation=EVERYTHING)
    with Workers(2) as workers:
        # Two processes and two episodes: each is its process's first.
        fresh = rollout(None, [plain, varied], workers)
    simulation.expert(dataclasses.replace(varied, seed=4, horizon=30))
    used = [simulation.expert(plain)]
    simulation.expert(Episode(5, variation=TabletopVariation("other", table=(0.5, 0.5, 0.5), camera=(0.0, -0.1, 0.0)), horizon=8))
    used.append(simulation.expert(varied))
    for one, other in zip(fresh, used, strict=True):
        assert one.state == other.state and len(one.frames) == len(other.frames) == 9
        assert all(np.array_equal(a, b) for a, b in zip(one.frames, other.frames, strict=True))
    assert used[0].state != used[1].state
    assert np.abs(used[0].frames[0].astype(int) - used[1].frames[0]).mean() > 10


def test_the_expert_lifts_what_training_never_had(simulation):
    for shape in ("ball", "drum", "cone"):
        objects = tuple(f"{colour} {shape}" for colour in ("red", "blue", "pink"))
        result = simulation.expert(Episode(0, variation=TabletopVariation(shape, objects=objects)))
        assert result.success and result.target.endswith(shape)


def test_the_expert_holds_still_when_told_nothing(simulation):
    assert simulation.expert(Episode(0, "empty", horizon=4)).failure == "nothing grasped"


def test_a_black_image_is_a_lost_context(simulation, monkeypatch):
    monkeypatch.setattr(simulation.table, "images", lambda: {"front": np.zeros((64, 64, 3), np.uint8)})
    with pytest.raises(RuntimeError, match="'front' is black: the OpenGL context is lost"):
        simulation.start(Episode(0))
    assert simulation.start(Episode(0), look=False).images == {}


@pytest.mark.parametrize("task", ["lift", "push"])
@pytest.mark.parametrize("metres", [0.03, -0.03])
def test_the_expert_works_on_a_raised_table(simulation, task, metres):
    table, episode = simulation.table, Episode(2, task=task, variation=TabletopVariation("high", raised=metres))
    assert simulation.expert(episode).success
    simulation.start(episode, look=False)
    lying, hand = table.data.xpos[table.body(0)][2], table.state()[2]
    for _ in range(10):
        table.step(np.array([0, 0, 0, 0, 0, 0, -1.0]))
    assert abs(table.data.xpos[table.body(0)][2] - lying) < 0.002 and abs(table.lift(0)) < 0.002
    simulation.start(dataclasses.replace(episode, variation=TabletopVariation()), look=False)
    # The robot, and what it calls its height, stay.
    assert table.raised == 0 and table.state()[2] == hand and lying - table.data.xpos[table.body(0)][2] == pytest.approx(metres)
