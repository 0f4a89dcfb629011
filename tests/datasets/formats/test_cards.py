"""Every shipped card of an RLDS data set on records with that data set's own features (tensorflow.org/datasets/catalog).

What Open X-Embodiment's users do with them is written out here in NumPy.
"""

import zlib

import numpy as np
import pytest
from rlds_files import features, group, image, jpeg, tensor, text, write
from scipy.spatial.transform import Rotation

from vla.datasets.card import DatasetCard
from vla.datasets.formats.conventions.prepare import Changes, prepare
from vla.datasets.formats.conventions.source_card import load_source_card
from vla.datasets.formats.convert import run
from vla.datasets.formats.job import ConvertOptions, make_job
from vla.datasets.formats.readers.rlds import RLDSReader

pytest.importorskip("google_crc32c")
T = 7
RNG = np.random.default_rng(3)
POSE = np.concatenate([RNG.normal(size=(T, 3)), np.tile([0, 0, np.sin(0.25), np.cos(0.25)], (T, 1))], 1).astype(np.float32)
MOVED, TURNED = (RNG.normal(size=(T, 3)).astype(np.float32) / 10 for _ in range(2))
STATE = RNG.normal(size=(T, 7)).astype(np.float32)
CLOSING = np.array([0, 0, 1, 0, -1, 0, 0], np.float32)
OPEN = np.array([1, 1, 0, 0, 1, 1, 1], np.float32)
WORDS = [b"pick the can"] * T


def flat(nested, prefix="steps"):
    """Names as TFDS joins them."""
    found = {}
    for name, value in nested.items():
        found |= flat(value, f"{prefix}/{name}") if isinstance(value, dict) else {f"{prefix}/{name}": value}
    return found


def first():
    return (np.arange(T) == 0).astype(np.int64)


def rt1_action():
    spec = group(
        world_vector=tensor("float32", 3),
        rotation_delta=tensor("float32", 3),
        gripper_closedness_action=tensor("float32", 1),
        terminate_episode=tensor("int32", 3),
        base_displacement_vector=tensor("float32", 2),
    )
    given = {"world_vector": MOVED, "rotation_delta": TURNED, "gripper_closedness_action": CLOSING}
    return spec, {
        **given,
        "terminate_episode": np.zeros(3 * T, np.int64),
        "base_displacement_vector": np.zeros(2 * T, np.float32),
    }


def fractal():
    spec, action = rt1_action()
    observation = group(
        image=image(),
        base_pose_tool_reached=tensor("float32", 7),
        gripper_closed=tensor("float32", 1),
        natural_language_instruction=tensor("string"),
        workspace_bounds=tensor("float32", 3, 3),
    )
    given = {"base_pose_tool_reached": POSE, "gripper_closed": 1 - OPEN, "natural_language_instruction": WORDS}
    given |= {"image": [jpeg(t) for t in range(T)], "workspace_bounds": np.zeros(9 * T, np.float32)}
    turn = np.tile([0, 0, 0.5], (T, 1))
    expected = np.c_[MOVED, TURNED, OPEN], np.c_[POSE[:, :3], turn, 1 - OPEN]
    return (
        features(action=spec, observation=observation, is_first=tensor("bool")),
        {"action": action, "observation": given},
        expected,
    )


def kuka():
    spec, action = rt1_action()
    packed = {
        "clip_function_input": {"base_pose_tool_reached": [zlib.compress(row.tobytes()) for row in POSE]},
        "gripper_closed": [zlib.compress(np.float32(1 - value).tobytes()) for value in OPEN],
    }
    observation = group(
        **{"clip_function_input/base_pose_tool_reached": tensor("float32", 7, encoding="zlib")},
        image=image(),
        gripper_closed=tensor("float32", 1, encoding="zlib"),
        natural_language_instruction=tensor("string"),
    )
    given = {**packed, "natural_language_instruction": WORDS, "image": [jpeg(t) for t in range(T)]}
    expected = np.c_[MOVED, TURNED, OPEN], np.c_[POSE[:, :3], np.tile([0, 0, 0.5], (T, 1)), 1 - OPEN]
    return (
        features(action=spec, observation=observation, is_first=tensor("bool")),
        {"action": action, "observation": given},
        expected,
    )


def bridge():
    action = np.c_[np.zeros((T, 6)), [0, 1, 1, 0.5, 0, 0, 0]].astype(np.float32)
    images = {f"image_{k}": [jpeg(t + k) for t in range(T)] for k in range(2)}
    observation = group(image_0=image(), image_1=image(), state=tensor("float32", 7))
    spec = features(action=tensor("float32", 7), observation=observation, language_instruction=text(), is_first=tensor("bool"))
    given = {"action": action, "observation": {**images, "state": STATE}, "language_instruction": WORDS}
    # Without the first step; the movement to the next state; without the last.
    expected = np.c_[movements(), [1, 1, 0, 0, 0]], STATE[1:-1]
    return spec, given, expected


def movements():
    """From each state of Bridge to the next, without the first: positions differ, and so do rotations."""
    rotations = Rotation.from_euler("xyz", STATE[1:, 3:6])
    return np.c_[np.diff(STATE[1:, :3], axis=0), (rotations[1:] * rotations[:-1].inv()).as_euler("xyz")]


def bridge_oxe():
    action = {"world_vector": MOVED, "rotation_delta": TURNED, "open_gripper": OPEN.astype(np.int64)}
    spec = group(world_vector=tensor("float32", 3), rotation_delta=tensor("float32", 3), open_gripper=tensor("bool"))
    observation = group(image=image(), state=tensor("float32", 7), natural_language_instruction=tensor("string"))
    given = {"image": [jpeg(t) for t in range(T)], "state": STATE, "natural_language_instruction": WORDS}
    expected = np.c_[movements(), OPEN[1:-1]], STATE[1:-1]
    return (
        features(action=spec, observation=observation, is_first=tensor("bool")),
        {"action": action, "observation": given},
        expected,
    )


def droid():
    speed, closed = RNG.normal(size=(T, 6)).astype(np.float32), RNG.uniform(size=T).astype(np.float32)
    spec = group(
        cartesian_velocity=tensor("float64", 6), gripper_position=tensor("float64", 1), joint_position=tensor("float64", 7)
    )
    cameras = ("exterior_image_1_left", "exterior_image_2_left", "wrist_image_left")
    observation = group(
        **{name: image() for name in cameras}, cartesian_position=tensor("float64", 6), gripper_position=tensor("float64", 1)
    )
    words = {f"language_instruction{end}": [b""] * T if not end else WORDS for end in ("", "_2", "_3")}
    given = {name: [jpeg(t) for t in range(T)] for name in cameras}
    given |= {"cartesian_position": STATE[:, :6], "gripper_position": closed}
    action = {"cartesian_velocity": speed, "gripper_position": closed, "joint_position": STATE}
    plain = {"action_dict": action, "observation": given, "action": STATE, **words}
    specs = {
        "action_dict": spec,
        "observation": observation,
        "action": tensor("float64", 7),
        **dict.fromkeys(words, text()),
    }
    return features(**specs, is_first=tensor("bool")), plain, (np.c_[speed, 1 - closed], np.c_[STATE[:, :6], closed])


@pytest.mark.parametrize("make", [fractal, kuka, bridge, bridge_oxe, droid])
def test_a_card_does_what_its_data_set_needs(tmp_path, make):
    described, given, (action, state) = make()
    name = make.__name__
    record = flat({**given, "is_first": first()}) | {"episode_metadata/file_path": [b"x"]}
    reader = RLDSReader(write(tmp_path / name, [record], described, name=name, files=1))
    card = load_source_card(name)
    episode = prepare(reader.read(reader.refs()[0]), card, Changes(), name)
    assert np.allclose(episode.action, action, atol=1e-6) and np.allclose(episode.state, state, atol=1e-6)
    assert episode.instruction == ["pick the can"] * len(action) and set(episode.images) == set(card.cameras)
    for frames, rows in episode.images.values():
        assert len(list(frames.rows(rows.tolist()))) == len(action)


@pytest.mark.parametrize("make", [bridge, bridge_oxe])
def test_limits_fit_turns_that_pass_pi(tmp_path, make):
    described, given, _ = make()
    state = np.zeros((T, 7), np.float32)
    # The yaw swings around pi.
    state[:, 5] = np.pi + np.array([0, 0.05, -0.05, 0.05, -0.05, 0.05, -0.05])
    state[:, 5] -= 2 * np.pi * (state[:, 5] > np.pi)
    given["observation"]["state"] = state
    record = flat({**given, "is_first": first()}) | {"episode_metadata/file_path": [b"x"]}
    write(tmp_path / "in", [record], described, name=make.__name__, files=1)
    run(make_job(ConvertOptions(str(tmp_path / "in"), str(tmp_path / "out"), card=make.__name__)))
    space = DatasetCard.load(tmp_path / "out").spec.action
    assert np.allclose(space.statistics["max"][3:6], [0, 0, 0.1], atol=1e-5)
    assert np.allclose([space.low[5], space.high[5]], [-0.1, 0.1], atol=1e-5)
