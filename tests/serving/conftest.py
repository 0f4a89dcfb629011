"""A policy in plain numpy, and a real server around it."""

import subprocess
import threading

import numpy as np
import pytest

from vla.contract import Camera, Embodiment, PolicyContract
from vla.observation import ActionChunk, Observation
from vla.serving.server import running
from vla.space import Space


def make_contract(**changes) -> PolicyContract:
    state = Space(("x", "y", "z", "yaw", "gap"), ("m", "m", "m", "rad", "m"), (-1.0,) * 5, (1.0,) * 5)
    action = Space(
        ("dx", "dy", "dz", "drx", "dry", "drz", "gripper"), ("m",) * 3 + ("rad",) * 3 + ("1",), (-1.0,) * 7, (1.0,) * 7
    )
    cameras = (Camera("front", 64, 64), Camera("wrist", 64, 64))
    keys = {
        "openpi-libero": {
            "observation/image": "front",
            "observation/wrist_image": "wrist",
            "observation/state": "state",
            "prompt": "instruction",
        }
    }
    return PolicyContract({"panda": Embodiment(cameras, state, action, keys=keys)}, **changes)


class MeanPixelPolicy:
    """Answers with the mean of each image, the state and the length of the instruction. Counts calls per stream."""

    def __init__(self, contract: PolicyContract | None = None):
        self.contract = contract or make_contract()
        self.calls: dict[str, int] = {}
        self.inside = self.most_inside = 0
        self.threads = set()
        self.batches: list[int] = []

    def reset(self, ids) -> None:
        for stream in ids:
            self.calls.pop(stream, None)

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self.threads.add(threading.get_ident())
        self.batches.append(len(observations))
        try:
            return [self._chunk(o) for o in observations]
        finally:
            self.inside -= 1

    def _chunk(self, o: Observation) -> ActionChunk:
        if o.instruction == "break":
            raise ZeroDivisionError("secret detail")
        if o.instruction == "stutter":
            return ActionChunk(np.empty((0, 7)), np.empty(0, bool), {}, "malformed: 3 of 7 numbers")
        self.calls[o.id] = self.calls.get(o.id, 0) + 1
        row = [o.images["front"].mean(), o.images["wrist"].mean(), *o.state[:4], len(o.instruction)]
        if o.instruction == "nan":
            row[0] = np.nan
        actions = np.array([row] * self.contract.chunk)
        return ActionChunk(
            actions, np.zeros(len(actions), bool), {"calls": self.calls[o.id], "array": np.float32(1.5), "nan": np.nan}
        )


@pytest.fixture(scope="session")
def contract():
    return make_contract()


@pytest.fixture(scope="session")
def policy_class():
    return MeanPixelPolicy


@pytest.fixture(scope="session")
def observed():
    return make_observation


@pytest.fixture(scope="module")
def policy():
    return MeanPixelPolicy()


@pytest.fixture(scope="module")
def url(policy):
    with running(policy) as address:
        yield address


def make_observation(seed: int = 0, **changes) -> Observation:
    rng = np.random.default_rng(seed)
    values = {
        "id": "0",
        "images": {name: rng.integers(0, 256, (64, 64, 3), np.uint8) for name in ("front", "wrist")},
        "state": rng.uniform(-1, 1, 5),
        "instruction": "pick up the red cube",
    }
    return Observation(**{**values, **changes})


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """PEM files of a certificate for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    files = str(folder / "cert.pem"), str(folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run([*command, "-out", files[0], "-keyout", files[1], *names], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl program")
    return files
