"""The openpi client against our server and an independent one with its own msgpack code."""

import contextlib
import threading

import msgpack
import numpy as np
import pytest
from websockets.sync.server import serve

from vla.contract import PolicyContract
from vla.errors import UserError
from vla.observation import ActionChunk, Observation
from vla.policies.load import load_policy
from vla.serving.server import running
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME

EMBODIMENTS = {EMBODIMENT_NAME: EMBODIMENT}


class EchoPolicy:
    """Answers with the means of the images, the state, and the calls of this stream."""

    contract = PolicyContract(EMBODIMENTS, chunk=2, execute=2)

    def __init__(self):
        self.calls = {}

    def reset(self, ids):
        for stream in ids:
            self.calls.pop(stream, None)

    def act(self, observations):
        answers = []
        for o in observations:
            self.calls[o.id] = self.calls.get(o.id, 0) + 1
            row = [o.images["front"].mean(), o.images["wrist"].mean(), *o.state[:3], len(o.instruction), self.calls[o.id]]
            answers.append(ActionChunk(np.array([row] * 2), np.array([False, True])))
        return answers


def observed(stream="a", seed=0):
    rng = np.random.default_rng(seed)
    images = {c: rng.integers(0, 256, (64, 64, 3), np.uint8) for c in ("front", "wrist")}
    return Observation(stream, images, rng.uniform(0, 0.1, 5), "lift the red cube", EMBODIMENT_NAME)


def test_our_server_sends_its_contract_and_separates_streams():
    with running(EchoPolicy()) as url:
        policy = load_policy(url.replace("http", "ws"), embodiments=EMBODIMENTS)
        assert policy.says_contract and policy.contract.hash == EchoPolicy.contract.hash
        a, b = observed("a"), observed("b", 1)
        for calls in (1, 2):
            one, other = policy.act([a, b])
            assert one.actions.shape == (2, 7) and one.terminate.tolist() == [False, True]
            assert one.actions[0, 0] == pytest.approx(a.images["front"].mean())
            assert other.actions[0, 1] == pytest.approx(b.images["wrist"].mean())
            assert one.actions[0, 6] == other.actions[0, 6] == calls
        policy.reset(["a"])
        assert [c.actions[0, 6] for c in policy.act([a, b])] == [1, 3]
        policy.close()


def pack(array):
    return {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": array.dtype.str, b"shape": array.shape}


@contextlib.contextmanager
def foreign(answer, greeting=None):
    """A minimal server of openpi's protocol; answer(message) is bytes or text."""
    received = []

    def converse(socket):
        socket.send(msgpack.packb({"policy": "pi0"}) if greeting is None else greeting)
        for content in socket:
            received.append(msgpack.unpackb(content))
            socket.send(answer(received[-1]))

    with serve(converse, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}", received
        server.shutdown()


def test_a_foreign_server_gets_the_keys_of_the_key_map():
    actions = np.arange(70, dtype=np.float32).reshape(10, 7)
    with foreign(lambda _: msgpack.packb({"actions": pack(actions), "policy_timing": {"infer_ms": 1.0}})) as (url, received):
        policy = load_policy(f"{url}#openpi-libero", embodiments=EMBODIMENTS)
        assert not policy.says_contract and policy.contract.execute == 1
        observation = observed()
        chunk = policy.act([observation])[0]
        assert np.array_equal(chunk.actions, actions) and not chunk.terminate.any() and len(chunk.terminate) == 10
        policy.close()
    assert set(received[0]) == set(EMBODIMENT.keys["openpi-libero"])
    assert received[0]["prompt"] == "lift the red cube"
    assert received[0]["observation/image"][b"data"] == observation.images["front"].tobytes()
    assert np.array_equal(np.frombuffer(received[0]["observation/state"][b"data"]), observation.state)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("Traceback (most recent call last):\n  line\nKeyError: 'state'\n", "the server reports: KeyError: 'state'"),
        (msgpack.packb({"act": 1}), "no array `actions`"),
        (b"\xc1", "not msgpack"),
    ],
)
def test_wrong_answers_of_a_server_are_reported(answer, says):
    with foreign(lambda _: answer) as (url, _), pytest.raises(UserError) as error:
        policy = load_policy(url, embodiments=EMBODIMENTS)
        try:
            policy.act([observed()])
        finally:
            policy.close()
    assert says in str(error.value) and "Traceback" not in str(error.value)


def test_missing_servers_and_key_maps_are_reported():
    with pytest.raises(UserError, match="cannot be reached"):
        load_policy("ws://127.0.0.1:9", embodiments=EMBODIMENTS)
    with foreign(lambda _: b"", greeting="hello") as (url, _), pytest.raises(UserError, match="the server reports: hello"):
        load_policy(url, embodiments=EMBODIMENTS)
    with foreign(lambda _: b"") as (url, _), pytest.raises(UserError, match="no key map 'droid'") as error:
        load_policy(f"{url}#droid", embodiments=EMBODIMENTS)
    assert "openpi-libero" in str(error.value)
    with pytest.raises(UserError, match="does not say for which robot"):
        load_policy("ws://127.0.0.1:9")
