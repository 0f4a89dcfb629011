import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vla.datasets.formats.conventions.prepare import Changes, Dropped, prepare
from vla.datasets.formats.conventions.source_card import CameraKey, Part, SourceCard, load_source_card
from vla.datasets.formats.readers.base import InMemoryFrames
from vla.errors import UserError

CARD = SourceCard(
    cameras={"front": CameraKey("image")},
    action=(
        Part("action", ("dx", "dy"), pick=(0, 1), role="position"),
        Part("action", ("drx", "dry", "drz"), pick=(2, 3, 4), role="rotation"),
        Part("action", ("gripper",), pick=(5,), role="gripper"),
    ),
    state=(Part("state", ("x",)),),
    instruction=("words",),
    control_hz=10,
    rotation="axis_angle",
)


def raw(length=6, **changes):
    action = np.zeros((length, 6))
    action[:, 0] = np.arange(1, length + 1)
    values = {
        "action": action,
        "state": np.arange(length, dtype=float),
        "words": ["go"] * length,
        "image": InMemoryFrames([bytes([i]) for i in range(length)]),
    }
    return {**values, **changes}


def shown(episode):
    frames, rows = episode.images["front"]
    return [frame[0] for frame in frames.rows(rows.tolist())]


def test_values_go_where_the_card_says():
    episode = prepare(raw(), CARD, Changes(), "e")
    assert episode.action.shape == (6, 6) and episode.action.dtype == np.float32
    assert episode.state.ravel().tolist() == [0, 1, 2, 3, 4, 5] and shown(episode) == [0, 1, 2, 3, 4, 5]
    assert episode.terminate.tolist() == [False] * 5 + [True] and not episode.dropped


def test_observations_made_after_their_actions_move_on_by_one():
    episode = prepare(raw(), dataclasses.replace(CARD, alignment="post"), Changes(), "e")
    # The action of step t goes with the observation of step t - 1.
    assert episode.action[:, 0].tolist() == [2, 3, 4, 5, 6] and episode.state.ravel().tolist() == [0, 1, 2, 3, 4] == shown(
        episode
    )
    assert episode.dropped == {"no observation before it": 1}


def test_steps_may_be_dropped_at_the_ends():
    episode = prepare(raw(), dataclasses.replace(CARD, steps=("drop_first", "drop_last")), Changes(), "e")
    assert shown(episode) == [1, 2, 3, 4] and episode.dropped == {"drop_first": 1, "drop_last": 1}


def test_bridge_actions_are_the_movements_that_followed():
    rng = np.random.default_rng(0)
    state, action = rng.normal(size=(6, 7)), rng.uniform(size=(6, 7))
    given = {
        "observation/state": state,
        "action": action,
        "observation/image_0": InMemoryFrames([b""] * 6),
        "language_instruction": ["put"] * 6,
    }
    prepared = prepare(given, load_source_card("bridge"), Changes(), "e")
    # As OpenVLA computes them: without the first step, differences of the rest, without the last. Rotations differ as such.
    turns = Rotation.from_euler("xyz", state[2:, 3:6]) * Rotation.from_euler("xyz", state[1:-1, 3:6]).inv()
    assert np.allclose(prepared.action[:, :3], np.diff(state[1:, :3], axis=0), atol=1e-6) and len(prepared) == 4
    assert np.allclose(prepared.action[:, 3:6], turns.as_euler("xyz"), atol=1e-6)
    assert np.allclose(prepared.state, state[1:-1], atol=1e-6)


def test_no_ops_are_left_out_but_not_where_the_gripper_moves():
    values = raw(6)
    values["action"][[1, 2, 4], 0] = 0
    values["action"][2:, 5] = 1
    episode = prepare(values, CARD, Changes(noops=True), "e")
    assert shown(episode) == [0, 2, 3, 5] and episode.dropped == {"no-op": 2}


@pytest.mark.parametrize(
    ("rotation", "there", "here"),
    [
        ("euler_xyz", [np.pi, 0.2, -np.pi], [-np.pi, 0.2, np.pi]),
        ("axis_angle", [0, np.pi, 0], [0, -np.pi, 0]),
        ("quaternion_xyzw", [0.5, 0.5, 0.5, 0.5], [-0.5, -0.5, -0.5, -0.5]),
    ],
)
def test_a_rotation_that_is_written_in_another_way_is_no_movement(rotation, there, here):
    action = np.array([there, here, here, there], float)
    card = SourceCard(
        action=(Part("action", tuple("abcd")[: len(there)], role="rotation"),), text="go", mode="absolute", rotation=rotation
    )
    assert len(prepare({"action": action}, card, Changes(noops=True), "e")) == 1
    action[2:] = [0] * (len(there) - 1) + [float(len(there) == 4)]
    assert len(prepare({"action": action}, card, Changes(noops=True), "e")) == 2


def test_the_end_is_kept_where_it_was_reached_by_waiting():
    values = raw(4)
    values["action"][2:, 0] = 0
    assert prepare(values, CARD, Changes(noops=True), "e").terminate.tolist() == [False, True]


def test_a_lower_rate_does_what_all_steps_did():
    values = raw(7)
    values["action"][:, 4] = 0.1
    values["action"][:, 5] = np.arange(7)
    episode = prepare(values, CARD, Changes(rate=5), "e")
    assert episode.action[:, 0].tolist() == [1 + 2, 3 + 4, 5 + 6, 7]
    assert np.allclose(episode.action[:, 4], [0.2, 0.2, 0.2, 0.1]) and episode.action[:, 5].tolist() == [1, 3, 5, 6]
    assert (
        shown(episode) == [0, 2, 4, 6] and episode.dropped == {"rate": 3} and episode.terminate.tolist() == [False] * 3 + [True]
    )
    with pytest.raises(UserError, match="at most 10, the rate of the data"):
        prepare(raw(), CARD, Changes(rate=20), "e")


def test_turns_are_composed_not_added():
    values = raw(2)
    values["action"][:, 2:5] = [[np.pi / 2, 0, 0], [0, np.pi / 2, 0]]
    prepared = prepare(values, CARD, Changes(rate=5), "e").action[0, 2:5]
    assert np.linalg.norm(prepared) == pytest.approx(2 * np.pi / 3, abs=1e-5)


def test_absolute_actions_keep_the_last():
    card = dataclasses.replace(CARD, mode="absolute")
    assert prepare(raw(6), card, Changes(rate=5), "e").action[:, 0].tolist() == [2, 4, 6]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"state": np.zeros(5)}, "6 actions, but 5 of state"),
        ({"image": InMemoryFrames([b""])}, "6 actions, but 1 of camera front"),
        ({"state": np.array([0, 1, np.nan, 0, 0, 0])}, "x is nan at step 2"),
        ({"state": np.array([0, 1, 1e39, 0, 0, 0])}, "x is 1e\\+39 at step 2"),
        ({"action": np.zeros((6, 3))}, "picks"),
        ({"action": ["a"] * 6}, "no numbers"),
        ({"image": ["a"] * 6}, "no images"),
        ({"words": ["a"] * 5}, "5 texts for 6 steps"),
    ],
)
def test_what_does_not_fit_is_named(change, why):
    with pytest.raises(UserError, match=why) as caught:
        prepare(raw(**change), CARD, Changes(), "file, episode 3")
    assert "file, episode 3" in str(caught.value)


def test_missing_names_are_said():
    values = raw()
    del values["action"]
    with pytest.raises(UserError, match="there is no action, only image, state, words"):
        prepare(values, CARD, Changes(), "e")


def test_instructions():
    with pytest.raises(Dropped, match="no instruction"):
        prepare(raw(words=[" "] * 6), CARD, Changes(), "e")
    assert prepare(raw(words=[""] * 6), CARD, Changes(text="lift"), "e").instruction == ["lift"] * 6
    # Language-Table says them as code points.
    points = np.zeros((6, 8), np.int32)
    points[:, :2] = [ord("h"), ord("i")]
    assert prepare(raw(words=points), CARD, Changes(), "e").instruction == ["hi"] * 6
