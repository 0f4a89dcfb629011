"""Policies: batches, receding horizons, temporal ensembles."""

import dataclasses

import numpy as np
import pytest

from vla.contract import PolicyContract
from vla.errors import UserError
from vla.evaluation.facts import facts_of
from vla.models.load import load_vlm
from vla.observation import ActionChunk, Observation
from vla.policies.base import RecedingHorizon, TemporalEnsemble, rest
from vla.policies.load import load_policy
from vla.policies.local import LocalPolicy
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME
from vla.space import Space


def test_an_answer_does_not_depend_on_the_rest_of_the_batch(vlm):
    contract = PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=2, execute=1)
    policy = LocalPolicy(*load_vlm(vlm), contract, batch=4)
    rng = np.random.default_rng(0)

    def observe_with(i, instruction):
        images = {c.name: rng.integers(0, 255, (64, 64, 3), np.uint8) for c in EMBODIMENT.cameras}
        return Observation(str(i), images, np.array([0, 0, 0.1, 0, 0.04]), instruction)

    observations = [
        observe_with(0, "lift it"),
        observe_with(1, "please lift the purple cylinder that stands on the left"),
        observe_with(2, ""),
    ]
    together = policy.act(observations)
    for observation, chunk in zip(observations, together, strict=True):
        assert np.array_equal(policy.act([observation])[0].actions, chunk.actions)


def test_a_policy_with_several_batch_sizes_names_the_one_it_used(vlm):
    contract = PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=2, execute=1)
    model, processor = load_vlm(vlm)
    ladder = LocalPolicy(model, processor, contract, batch=(1, 4), probabilities=True)
    rng = np.random.default_rng(0)
    images = [{c.name: rng.integers(0, 255, (64, 64, 3), np.uint8) for c in EMBODIMENT.cameras} for _ in range(6)]
    observations = [Observation(str(i), image, np.array([0, 0, 0.1, 0, 0.04]), "lift it") for i, image in enumerate(images)]
    for rows, shapes in ((1, [1]), (3, [4] * 3), (6, [4] * 6)):
        chunks = ladder.act(observations[:rows])
        assert [chunk.info["batch"] for chunk in chunks] == shapes
        alone = LocalPolicy(model, processor, contract, batch=shapes[0])
        for observation, chunk in zip(observations, chunks, strict=False):
            assert np.array_equal(alone.act([observation])[0].actions, chunk.actions)
            probabilities = chunk.info["probabilities"]
            assert np.shape(probabilities["plan"]) == (2,) and np.shape(probabilities["steps"]) == (2, 8)
            assert all(0 < p <= 1.0001 for row in probabilities["steps"] for p in row)


class Counter:
    """A policy whose chunks count its calls."""

    contract = PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=3, execute=2)

    def __init__(self):
        self.calls = 0

    def reset(self, ids):
        pass

    def act(self, observations):
        self.calls += 1
        value = [[10.0 * self.calls + i] * 7 for i in range(3)]
        return [ActionChunk(np.array(value), np.zeros(3, bool)) for _ in observations]


def observe(name):
    return Observation(name, {}, np.zeros(5), "")


def test_receding_horizon_asks_again_after_the_executed_actions():
    policy = RecedingHorizon(Counter())
    actions = [policy.act([observe("a")])[0].actions[0, 0] for _ in range(4)]
    assert actions == [10, 11, 20, 21] and policy.policy.calls == 2
    policy.reset(["a"])
    assert policy.needs("a")


def test_temporal_ensemble_weighs_the_newest_most_and_leaves_the_gripper():
    policy = TemporalEnsemble(Counter(), decay=1.0)
    first, second = (policy.act([observe("a")])[0].actions[0] for _ in range(2))
    assert (first == 10).all()
    weight = np.exp(-1.0)
    assert np.isclose(second[0], (20 + weight * 11) / (1 + weight)) and second[-1] == 20


def test_temporal_ensemble_never_averages_what_is_binary():
    spec = EMBODIMENT.action
    robot = dataclasses.replace(EMBODIMENT, action=dataclasses.replace(spec, binary=(None, (0.0, 1.0), *[None] * 5)))
    counter = Counter()
    counter.contract = dataclasses.replace(counter.contract, embodiments={"arm": robot})
    policy = TemporalEnsemble(counter, decay=0.0)
    first, second = (policy.act([observe("a")])[0].actions[0] for _ in range(2))
    assert second[:3].tolist() == [15.5, 20, 15.5]


def pose(rotation, names, unit):
    """An embodiment of absolute rotations and a gripper."""
    space = Space((*names, "gripper"), (unit,) * len(names) + ("",), (-4.0,) * (len(names) + 1), (4.0,) * (len(names) + 1))
    return dataclasses.replace(EMBODIMENT, action=space, mode="absolute", rotation=rotation)


@pytest.mark.parametrize(
    ("rotation", "names", "unit", "older", "newer", "expected"),
    [
        ("euler_xyz", ("roll", "pitch", "yaw"), "rad", (0.1, 0, 3.1), (0.1, 0, -3.1), (0.1, 0, np.pi)),
        ("euler_xyz", ("roll", "pitch", "yaw"), "deg", (0, 0, 179), (0, 0, -179), (0, 0, 180)),
        ("axis_angle", ("rx", "ry", "rz"), "rad", (0, 3.1, 0), (0, -3.1, 0), (0, np.pi, 0)),
        ("quaternion_xyzw", ("qx", "qy", "qz", "qw"), "", (0, 0, 1, 0), (0, 0, -1, -1e-9), (0, 0, 1, 0)),
        ("anything", ("yaw",), "rad", (3.1,), (-3.1,), (np.pi,)),
        ("not said", ("roll", "pitch", "yaw"), "rad", (0, 0, 3.1), (0, 0, -3.1), (0, 0, -3.1)),
    ],
)
def test_absolute_rotations_are_averaged_as_rotations(rotation, names, unit, older, newer, expected):
    chunks = [np.array([[*older, 1.0]] * 2), np.array([[*newer, 0.0]] * 2)]

    class Replayed(Counter):
        contract = dataclasses.replace(Counter.contract, embodiments={"arm": pose(rotation, names, unit)})

        def act(self, observations):
            self.calls += 1
            return [ActionChunk(chunks[self.calls - 1], np.zeros(2, bool))]

    policy = TemporalEnsemble(Replayed(), decay=0.0)
    policy.act([observe("a")])
    action = policy.act([observe("a")])[0].actions[0]
    assert np.allclose(np.abs(action[:-1]), np.abs(expected), atol=1e-6) and action[-1] == 0
    if rotation == "not said":
        assert action[2] == -3.1


def test_at_rest_a_robot_that_turns_by_quaternions_does_not_turn():
    turning = dataclasses.replace(pose("quaternion_wxyz", ("qw", "qx", "qy", "qz"), ""), mode="delta")
    assert rest(turning, np.array([0.9, 0.1, 0, 0, 1.0])).tolist() == [1, 0, 0, 0, 1]


def test_a_policy_with_history_needs_its_own_spacing():
    policy = Counter()
    policy.contract = dataclasses.replace(Counter.contract, history=2)
    RecedingHorizon(policy)
    for wrap in (TemporalEnsemble, lambda p: RecedingHorizon(p, execute=3)):
        with pytest.raises(UserError, match="2 images are 2 steps apart"):
            wrap(policy)


class Stuttering(Counter):
    """A policy whose every second answer is malformed."""

    def act(self, observations):
        chunks = super().act(observations)
        if self.calls % 2:
            return chunks
        return [ActionChunk(np.empty((0, 7)), np.empty(0, bool), {}, "malformed: 3 of 21 numbers") for _ in chunks]


def test_after_a_malformed_answer_the_robot_rests_and_asks_again():
    policy = RecedingHorizon(Stuttering())
    chunks = [policy.act([observe("a")])[0] for _ in range(4)]
    assert [chunk.status for chunk in chunks] == ["", "", "malformed: 3 of 21 numbers", ""]
    # The robot does not move, and its gripper keeps its last value, clipped to its limits.
    assert (
        (chunks[2].actions == [[0, 0, 0, 0, 0, 0, 1]]).all() and not chunks[2].terminate.any() and chunks[3].actions[0, 0] == 30
    )
    policy.reset(["a"])
    assert policy.act([observe("a")])[0].actions[0, -1] == 0


def test_an_ensemble_uses_the_chunks_it_has_after_a_malformed_answer():
    policy = TemporalEnsemble(Stuttering(), decay=1.0)
    chunks = [policy.act([observe("a")])[0] for _ in range(2)]
    assert chunks[1].status and (chunks[1].actions == 11).all()
    silent = TemporalEnsemble(Stuttering())
    silent.policy.calls = 1
    assert (silent.act([observe("a")])[0].actions == 0).all()


def test_at_rest_a_robot_with_absolute_actions_keeps_its_pose():
    poses = dataclasses.replace(EMBODIMENT, mode="absolute")
    assert (rest(poses, np.full(7, 0.3)) == 0.3).all()
    with pytest.raises(UserError, match="there is no earlier pose"):
        rest(poses, None)


def test_a_local_policy_computes_in_the_type_that_is_asked_for(tmp_path, vlm):
    contract = PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=2, execute=1)
    for part in load_vlm(vlm):
        part.save_pretrained(tmp_path / "export")
    contract.save(tmp_path / "export")
    name = str(tmp_path / "export")
    half, whole = load_policy(name, dtype="bfloat16"), load_policy(name)
    assert (half.dtype, whole.dtype) == ("bfloat16", "float32")
    rng = np.random.default_rng(0)
    images = {c.name: rng.integers(0, 255, (64, 64, 3), np.uint8) for c in EMBODIMENT.cameras}
    chunk = half.act([Observation("a", images, np.array([0, 0, 0.1, 0, 0.04]), "lift it")])[0]
    assert chunk.actions.shape == (2, 7) and np.isfinite(chunk.actions).all()
    assert facts_of(name, half)["dtype"] == "bfloat16" and "dtype" not in facts_of(name, whole)
    for other in ("random", "http://127.0.0.1:1"):
        with pytest.raises(UserError, match="computes in its own type"):
            load_policy(other, embodiments={EMBODIMENT_NAME: EMBODIMENT}, dtype="bfloat16")
