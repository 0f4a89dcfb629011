"""The robot's client against a real server: chunks, guard, watchdog, reconnecting; and that its syntax is Python 3.8's."""

import ast
import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "client/src"))

from vla_client import (  # noqa: E402
    Connection,
    Guard,
    Limits,
    RecedingHorizon,
    Refused,
    Robot,
    ServerError,
    TemporalEnsemble,
    Unreachable,
    drive,
)
from vla_client.robot import Watchdog  # noqa: E402
from vla_client.wire import pack, unpack  # noqa: E402

from vla.policies import base  # noqa: E402
from vla.protocols import wire  # noqa: E402
from vla.serving.keys import Keys  # noqa: E402
from vla.serving.options import ServerOptions  # noqa: E402
from vla.serving.server import running  # noqa: E402


def message(seed=0):
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 256, (64, 64, 3), np.uint8) for name in ("front", "wrist")}
    return {"images": images, "state": rng.uniform(-1, 1, 5), "prompt": "go"}


def ws(url):
    return url.replace("http", "ws")


def test_the_client_is_python_3_8_and_small():
    files = [*(ROOT / "client").rglob("*.py"), *(ROOT / "examples/libero").rglob("*.py")]
    assert len(files) >= 6
    for file in files:
        ast.parse(file.read_text(), feature_version=(3, 8))
        assert not re.search(r"removeprefix|\bmatch \w+:$|: list\[|-> dict\[| \| None", file.read_text()), file
    code = "import sys, vla_client; sys.exit(bool({'torch', 'vla', 'scipy', 'PIL'} & sys.modules.keys()))"
    assert (
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT / "client/src")}).returncode == 0
    )


def test_client_and_server_write_the_same_bytes():
    for array in (np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((0, 3), np.uint8), np.array(1.5)):
        assert pack({"a": array}) == wire.pack({"a": array})
        unpacked = unpack(wire.pack({"a": array}))["a"]
        assert unpacked.dtype == array.dtype and unpacked.shape == array.shape and unpacked.flags.writeable
    with pytest.raises(ValueError):
        pack(np.array([object()]))
    for wrong in (b"\xc1", pack({b"__ndarray__": True}), pack({b"__ndarray__": 1, b"data": b"", b"dtype": "O", b"shape": [1]})):
        with pytest.raises(ValueError):
            unpack(wrong)


class Chunks:
    """Chunk k is [[10 k, 10 k + 1, ...]] in every dimension."""

    def __init__(self, length=4):
        self.calls, self.length = 0, length

    def __call__(self, _):
        self.calls += 1
        rows = 10.0 * self.calls + np.arange(self.length)
        return {"actions": np.stack([rows, rows], 1)}


def test_receding_horizon_asks_when_its_actions_are_used_up():
    infer = Chunks()
    policy = RecedingHorizon(infer, 2)
    assert [policy.step({})[0] for _ in range(5)] == [10, 11, 20, 21, 30] and infer.calls == 3
    policy.reset()
    assert policy.needs_observation and policy.step({})[0] == 40


def test_ensembling_equals_that_of_vla_policies(contract, observed):
    rng = np.random.default_rng(0)
    chunks = list(rng.normal(size=(6, 4, 7)))
    client = TemporalEnsemble(lambda o: {"actions": chunks[o["k"]]})

    class Replayed:
        def __init__(self):
            self.contract = contract

        def reset(self, ids):
            pass

        def act(self, observations):
            return [base.ActionChunk(chunks[o.plan["k"]], np.zeros(4, bool)) for o in observations]

    package = base.TemporalEnsemble(Replayed())
    for k in range(6):
        observation = observed(plan={"k": k})
        assert np.allclose(client.step({"k": k}), package.act([observation])[0].actions[0])


def test_angles_are_averaged_and_change_the_short_way():
    chunks = [np.array([[3.1, 3.1, 0]] * 2), np.array([[-3.1, -3.1, 1]] * 2)]
    client = TemporalEnsemble(lambda o: {"actions": chunks[o["k"]]}, decay=0.0, angles=[0])
    client.step({"k": 0})
    action = client.step({"k": 1})
    assert abs(action[0]) == pytest.approx(np.pi) and action[1:].tolist() == [0, 1]
    guard = Guard(Limits([-np.pi] * 2, [np.pi] * 2, rate=0.1, angles=[0]))
    assert guard([3.1, 3.1]).tolist() == [3.1, 3.1]
    assert guard([-3.1, -3.1]) == pytest.approx([-3.1, 3.0]) and guard.clamped == 1
    # A change of 0.3 takes three steps, of which one passes pi.
    guard.reset()
    assert guard([3.0, 0])[0] == 3 and [guard([-2.99, 0])[0] for _ in range(3)] == pytest.approx([3.1, 3.2 - 2 * np.pi, -2.99])
    guard = Guard(Limits([-3, -3], [3, 3], rate=0.1, angles=[0]))
    assert guard([2.95, 0])[0] == 2.95 and [guard([-2.0, 0])[0] for _ in range(2)] == [3, 3]
    guard = Guard(Limits([-4, -4], [4, 4], rate=[0.1, np.inf]))
    assert guard([3.1, 0]).tolist() == [3.1, 0] and guard([-3.1, 2]).tolist() == [3.0, 2]


def test_the_guard_clamps_limits_the_rate_and_refuses_nan():
    guard = Guard(Limits([-1, -1], [1, 1], rate=[0.5, np.inf]))
    assert guard([0.2, -7]).tolist() == [0.2, -1] and guard.clamped == 1
    assert guard([1, 1]).tolist() == [0.7, 1] and guard([0.7, 1]).tolist() == [0.7, 1] and guard.clamped == 2
    for wrong in ([np.nan, 0], [0, np.inf], [0, 0, 0]):
        with pytest.raises(Refused):
            guard(wrong)
    for limits in (([1], [0]), ([0, 0], [1]), ([0], [1], [0])):
        with pytest.raises(ValueError):
            Limits(*limits)


def test_the_watchdog_holds_until_it_is_fed():
    holds = []
    with Watchdog(lambda: holds.append(time.monotonic()), 0.1) as dog:
        for _ in range(6):
            time.sleep(0.02)
            dog.feed()
        assert not holds
        time.sleep(0.4)
        assert len(holds) >= 2


class Recorded(Robot):
    def __init__(self):
        self.actions = []

    def observe(self):
        return message(len(self.actions))

    def act(self, action):
        self.actions.append(action)

    def hold(self):
        self.actions.append(None)


def test_a_robot_is_driven_and_holds_when_an_action_is_refused(policy_class):
    with running(policy_class()) as url:
        connection = Connection(ws(url), timeout=5.0)
        assert connection.metadata["contract_hash"] == policy_class().contract.hash
        robot, errors = Recorded(), []
        guard = Guard(Limits.of(connection.metadata))
        assert drive(robot, RecedingHorizon(connection.infer, 2), guard, 100, 5, 5.0, on_trouble=errors.append) == 5
        assert robot.actions[-1] is None and guard.clamped == 5 and not errors
        assert all(np.abs(action).max() <= 1 for action in robot.actions[:-1])
        broken = RecedingHorizon(lambda _: {"actions": np.full((2, 7), np.nan)}, 2)
        robot = Recorded()
        assert drive(robot, broken, guard, 100, 3, stop=lambda: len(robot.actions) > 3, on_trouble=errors.append) == 0
        assert robot.actions == [None] * len(robot.actions) and isinstance(errors[0], Refused)
        connection.close()


def test_a_robot_holds_while_no_server_answers():
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Unreachable):
        Connection(f"ws://127.0.0.1:{silent.getsockname()[1]}", timeout=0.3)

    def no_answer(_):
        time.sleep(0.3)
        raise Unreachable("nobody")

    robot, errors = Recorded(), []
    stop = time.monotonic() + 0.8
    guard = Guard(Limits([-1], [1]))
    steps = drive(robot, RecedingHorizon(no_answer, 1), guard, 50, 9, 0.1, lambda: time.monotonic() > stop, errors.append)
    assert steps == 0 and errors and len(robot.actions) > len(errors) + 1, "the watchdog held during the wait for the server"


def test_a_refused_observation_is_not_sent_again(policy_class, tmp_path):
    (tmp_path / "keys").write_text("arm " + "k" * 20)
    with running(policy_class(), keys=Keys(tmp_path / "keys")) as url:
        with pytest.raises(ServerError, match="401"):
            Connection(ws(url), key="wrong")
        with pytest.raises(ServerError, match="expected abc"):
            Connection(ws(url), key="k" * 20, contract="abc")
        connection = Connection(ws(url), key="k" * 20)
        with pytest.raises(ServerError, match="wrist"):
            connection.infer({"images": {"front": message()["images"]["front"]}, "state": [0.0] * 5, "prompt": "go"})
        assert connection.infer(message())["actions"].shape == (4, 7)


def test_a_busy_server_gets_the_request_again(policy_class):
    class Slow(policy_class):
        def act(self, observations):
            time.sleep(0.05)
            return super().act(observations)

    retries = []
    with running(Slow(), options=ServerOptions(batch=1, queue=1)) as url:

        def ask(seed):
            connection = Connection(ws(url), timeout=20.0, on_retry=retries.append)
            for k in range(3):
                mean = message(seed + k)["images"]["front"].mean()
                assert connection.infer(message(seed + k))["actions"][0, 0] == pytest.approx(mean)

        threads = [threading.Thread(target=ask, args=(10 * i,)) for i in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert retries, "the server was never busy"


def test_a_server_that_was_too_slow_gets_the_request_again(policy_class):
    class Slow(policy_class):
        wait = 0.0

        def act(self, observations):
            time.sleep(self.wait)
            self.wait = 0.0
            return super().act(observations)

    policy, retries = Slow(), []
    with running(policy, options=ServerOptions(deadline_s=0.2)) as url:
        connection = Connection(ws(url), timeout=20.0, on_retry=retries.append)
        policy.wait = 0.5
        assert connection.infer(message())["actions"].shape == (4, 7)
        connection.close()
    assert "no answer within 0.2 s" in str(retries[0])


def test_a_server_that_comes_back_with_another_policy_is_refused(policy_class, contract):
    with running(policy_class()) as url:
        connection = Connection(ws(url), timeout=20.0)
        assert connection.infer(message())["actions"].shape == (4, 7)
    other = policy_class(dataclasses.replace(contract, chunk=2))
    with running(other, port=int(url.rsplit(":", 1)[1])):
        with pytest.raises(ServerError, match=contract.hash):
            connection.infer(message())
        assert Connection(ws(url)).contract == other.contract.hash


PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from conftest import MeanPixelPolicy
from vla.serving.server import serve
serve({{"policy": MeanPixelPolicy()}}, port={port})
"""


def start(port):
    program = PROGRAM.format(folder=str(ROOT / "tests/serving"), port=port)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout and (port := re.search(r":(\d+) ", process.stdout.readline()))
    return process, int(port[1])


def test_a_killed_server_comes_back_and_its_clients_go_on():
    process, port = start(0)
    retries, answers = [], []
    stop = threading.Event()

    def ask(seed):
        connection = Connection(f"ws://127.0.0.1:{port}", timeout=60.0, on_retry=retries.append)
        k = 0
        while not stop.is_set():
            observation = message(1000 * seed + k)
            actions = connection.infer(observation)["actions"]
            answers.append(actions[0, 0] == pytest.approx(observation["images"]["front"].mean()))
            k += 1

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(3)]
    try:
        for thread in threads:
            thread.start()
        wait_until(lambda: len(answers) > 20)
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_until(lambda: len(retries) >= 3)
        before = len(answers)
        process, _ = start(port)
        wait_until(lambda: len(answers) > before + 20)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        process.terminate()
    assert all(answers) and process.wait(20) == 0


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition stayed false"
        time.sleep(0.02)


def test_the_readme_s_snippet_runs_as_it_stands():
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "client/README.md").read_text(), re.DOTALL)
    process, port = start(0)
    try:
        run = subprocess.run(
            [sys.executable, "-c", snippet.replace("ws://127.0.0.1:8000", f"ws://127.0.0.1:{port}")],
            env={**os.environ, "PYTHONPATH": str(ROOT / "client/src")},
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        process.terminate()
    assert run.returncode == 0 and not run.stderr, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0] == "state ['x m', 'y m', 'z m', 'yaw rad', 'gap m']" and lines[-1] == "hold" and len(lines) == 23
    # The policy answers with the number of letters in the instruction: the gripper gets there at once.
    assert ast.literal_eval(lines[2])["gripper"] == 1


def test_rates_are_per_dimension_and_a_gripper_is_not_slowed(contract):
    metadata = {"contract": contract.to_dict()}
    guard = Guard(Limits.of(metadata, rate=0.02))
    guard(np.zeros(7))
    assert guard(np.ones(7)) == pytest.approx([0.02] * 6 + [1])
    guard = Guard(Limits.of(metadata, rate={"dx": 0.1, "gripper": 0.5}))
    guard(np.zeros(7))
    assert guard(np.ones(7)).tolist() == [0.1, 1, 1, 1, 1, 1, 0.5]
    guard = Guard(Limits.of(metadata, rate=[0.1] * 7))
    guard(np.zeros(7))
    assert guard(np.ones(7)).tolist() == [0.1] * 7
    with pytest.raises(ValueError, match="no dimension elbow; the robot has dx, dy"):
        Limits.of(metadata, rate={"elbow": 1.0})
    with pytest.raises(Refused, match="drz is nan"):
        guard([0, 0, 0, 0, 0, np.nan, 0])
    # A hand of another name that was open or closed in the data.
    embodiment = contract.embodiment()
    action = dataclasses.replace(
        embodiment.action, names=("a", "b", "c", "d", "e", "f", "claw"), binary=(None,) * 6 + ((-1.0, 1.0),)
    )
    metadata = {
        "contract": dataclasses.replace(contract, embodiments={"arm": dataclasses.replace(embodiment, action=action)}).to_dict()
    }
    assert Limits.of(metadata, rate=0.02).rate.tolist() == [0.02] * 6 + [np.inf]
