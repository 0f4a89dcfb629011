import numpy as np
import pytest

from vla.contract import Camera, Embodiment
from vla.datasets.card import DatasetCard
from vla.datasets.shards import ShardWriter
from vla.space import Space

LENGTHS = [3, 5, 4, 6, 2, 7, 3, 5, 4, 6]
STATE = Space(("x", "y"), ("m", "m"), (-10.0, -10.0), (10.0, 10.0))
ACTION = Space(("dx", "grip"), ("m", ""), (-10.0, -1.0), (10.0, 1.0))


def spec() -> Embodiment:
    return Embodiment((Camera("front", 16, 16), Camera("wrist", 16, 16)), STATE, ACTION)


def image(value: int) -> np.ndarray:
    return np.full((16, 16, 3), value, np.uint8)


def robot_samples():
    """Actions encode step and episode in their values, images in their grey level."""
    for episode, length in enumerate(LENGTHS):
        for step in range(length):
            info = {
                "episode": episode,
                "step": step,
                "length": length,
                "instruction": f"lift {episode}",
                "terminate": int(step == length - 1),
                "embodiment": "arm",
                "target": "red cube",
                "point": [0.25, 0.75],
            }
            yield (
                f"e{episode:06d}_s{step:04d}",
                {
                    "front.jpg": image(episode * 20 + step),
                    "wrist.jpg": image(200 - episode * 20 - step),
                    "action.npy": np.array([step, episode / 10], np.float32),
                    "state.npy": np.array([episode, step], np.float32),
                    "json": info,
                },
            )


def question_samples(count=20):
    for i in range(count):
        questions = [
            {"type": "where", "question": f"where is {i}", "answer": [[0.5, 0.5]]},
            {"type": "colour", "question": f"what colour is {i}", "answer": "red"},
        ]
        members = {"front.jpg": image(i), "wrist.jpg": image(i + 100), "json": {"questions": questions if i else []}}
        yield f"q{i:06d}", members


def write(folder, samples, kind, per_shard=10):
    with ShardWriter(folder, per_shard) as writer:
        for key, members in samples:
            writer.write(key, members)
    DatasetCard("test", kind, "arm", spec()).save(folder)
    return folder


@pytest.fixture(scope="session")
def robot(tmp_path_factory):
    return write(tmp_path_factory.mktemp("robot"), robot_samples(), "robot")


@pytest.fixture(scope="session")
def questions_folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("questions"), question_samples(), "questions")


@pytest.fixture
def make():
    """Writes robot samples to a folder: all, or those whose key `keep` accepts."""

    def make(folder, keep=lambda key: True, change=lambda members: members, per_shard=10):
        return write(folder, [(k, change(m)) for k, m in robot_samples() if keep(k)], "robot", per_shard)

    return make
