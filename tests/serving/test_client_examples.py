"""The examples that drive a robot with the client, against a real server."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "client/src"))

import vla_client  # noqa: E402
from vla_client import Connection  # noqa: E402

from vla.contract import Camera, Embodiment, PolicyContract  # noqa: E402
from vla.serving.server import running  # noqa: E402
from vla.space import Space  # noqa: E402


def ws(url):
    return url.replace("http", "ws")


def test_the_robot_loop_example(policy_class):
    with running(policy_class()) as url:
        run = subprocess.run(
            [sys.executable, str(ROOT / "client/examples/robot_loop.py"), ws(url), "go", "4"],
            env={**os.environ, "PYTHONPATH": str(ROOT / "client/src")},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[-1] == "4 actions, 4 clamped" and lines[-2] == "hold" and lines[0].startswith("dx=")


class LikeLibero:
    """An environment with LIBERO's keys and random images, whose episode ends after 23 steps."""

    def __init__(self):
        self.actions = []

    def reset(self):
        self.actions = []

    def set_init_state(self, state):
        assert state == "initial"
        return self._observation()

    def step(self, action):
        self.actions.append(action)
        return self._observation(), 0.0, len(self.actions) == 23, {}

    def _observation(self):
        rng = np.random.default_rng(len(self.actions))
        return {
            "agentview_image": rng.integers(0, 256, (256, 256, 3), np.uint8),
            "robot0_eye_in_hand_image": rng.integers(0, 256, (256, 256, 3), np.uint8),
            "robot0_eef_pos": np.array([0.1, 0.2, 0.3]),
            "robot0_eef_quat": np.array([0.0, 0.0, 0.0, 1.0]),
            "robot0_gripper_qpos": np.array([0.04, -0.04]),
        }


def test_the_libero_example_with_its_keys(policy_class):
    spec = importlib.util.spec_from_file_location("libero_main", ROOT / "examples/libero/main.py")
    main = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(main)
    assert np.allclose(main.axis_angle([0, 0, np.sin(0.25), np.cos(0.25)]), [0, 0, 0.5])
    state = Space(tuple("xyzabc") + ("left", "right"), ("",) * 8, (-4.0,) * 8, (4.0,) * 8)
    action = Space(tuple("xyzabc") + ("gripper",), ("",) * 7, (-1.0,) * 7, (1.0,) * 7)
    keys = policy_class().contract.embodiment().keys
    embodiment = Embodiment((Camera("front", 224, 224), Camera("wrist", 224, 224)), state, action, keys=keys)
    policy = policy_class(PolicyContract({"libero": embodiment}, chunk=10, execute=5))
    env = LikeLibero()
    with running(policy) as url:
        connection = Connection(ws(url))
        assert main.episode(env, "initial", "pick up the bowl", connection, length=40)
        connection.close()
    assert env.actions[:10] == [main.NOTHING] * 10 and len(env.actions) == 23
    assert np.allclose(env.actions[10][2:6], [0.1, 0.2, 0.3, 0.0]) and env.actions[10][0] == 1, "clamped to the contract's limits"
    assert vla_client.__all__
