"""OpenVLA's /act, the contract's key maps, starVLA's envelope and several policies: independent clients, a real server."""

import base64
import dataclasses
import json

import httpx
import msgpack
import numpy as np
import pytest
from websockets.sync.client import connect

from vla.contract import Camera, Embodiment, PolicyContract
from vla.errors import ContractMismatch
from vla.policies.load import load_policy
from vla.policies.openpi import OpenpiPolicy
from vla.protocols.keymaps import KeyMaps, to_message
from vla.serving.observations import read_observation
from vla.serving.openapi import describe
from vla.serving.openvla import to_request as openvla_request
from vla.serving.server import running
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME
from vla.space import Space


def numpy_json(array):
    return {"__numpy__": base64.b64encode(array.tobytes()).decode(), "dtype": array.dtype.str, "shape": list(array.shape)}


def read_array(answer):
    return np.frombuffer(base64.b64decode(answer["__numpy__"]), answer["dtype"]).reshape(answer["shape"])


@pytest.fixture
def payload(observed):
    observation = observed()
    return observation, {
        "image": numpy_json(observation.images["front"]),
        "wrist_image": numpy_json(observation.images["wrist"]),
        "state": observation.state.tolist(),
        "instruction": "go",
    }


def test_openvla_plain_and_double_encoded(url, payload, policy_class):
    observation, request = payload
    plain = httpx.post(f"{url}/act", json=request)
    action = read_array(plain.json())
    assert plain.status_code == 200 and action.shape == (7,) and action[0] == pytest.approx(observation.images["front"].mean())
    # The gripper's dimension holds the instruction's length, converted from -1 open, +1 closed to 1 open, 0 closed.
    assert action[6] == pytest.approx((1 - len("go")) / 2)
    doubled = httpx.post(f"{url}/act", json={"encoded": json.dumps(request)}).json()
    assert isinstance(doubled, str) and np.array_equal(read_array(json.loads(doubled)), action)
    assert plain.text == json.dumps(plain.json(), separators=(",", ":")), "the same bytes as json_numpy: keys in order, no blanks"
    assert list(plain.json()) == ["__numpy__", "dtype", "shape"] and plain.json()["dtype"] == "<f8"


def test_openvla_oft_gets_the_chunk(url, payload, contract):
    observation, request = payload
    request["full_image"] = request.pop("image")
    chunk = httpx.post(f"{url}/act", json=request).json()
    assert len(chunk) == contract.chunk and read_array(chunk[0])[1] == pytest.approx(observation.images["wrist"].mean())


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"wrist_image": None}, 422, "wrist"),
        ({"state": None}, 422, "None"),
        ({"unnorm_key": "bridge_orig"}, 422, "bridge_orig"),
        ({"image": "error"}, 400, "base64"),
        ({"instruction": 3}, 400, "int"),
        ({"colour": 3}, 400, "colour"),
        ({"encoded": "{}"}, 400, "encoded"),
        ({"encoded": 5}, 400, "encoded"),
    ],
)
def test_openvla_errors_have_their_status(url, payload, changes, status, says):
    request = {key: value for key, value in {**payload[1], **changes}.items() if value is not None}
    answer = httpx.post(f"{url}/act", json=request)
    assert answer.status_code == status and says in answer.text and "Traceback" not in answer.text


def test_openvla_needs_no_state_where_the_prompt_has_none(contract):
    request = {"image": 0, "wrist": 1, "instruction": "go"}
    assert openvla_request(request, contract)["state"] is None
    stateless = dataclasses.replace(contract, prompt="what to do to {instruction}?")
    assert openvla_request(request, stateless)["state"] == [0.0] * 5, "amid the limits"


def test_a_robot_without_proprioception_sends_no_state(contract):
    bare = dataclasses.replace(EMBODIMENT, state=Space((), (), (), ()))
    contract = dataclasses.replace(contract, embodiments={EMBODIMENT_NAME: bare})
    image = np.zeros((64, 64, 3), np.uint8)
    request = {"images": {"front": image, "wrist": image}, "instruction": "go"}
    for asked in (request, {**request, "state": []}):
        assert read_observation(asked, contract, 64).state.shape == (0,)
    with pytest.raises(ContractMismatch):
        read_observation({**request, "state": [0.1]}, contract, 64)
    assert describe(contract)["components"]["schemas"][f"observation.{EMBODIMENT_NAME}"]["required"] == ["images"]


def test_a_state_that_the_prompt_has_not_may_be_left_out(contract):
    contract = dataclasses.replace(contract, embodiments={EMBODIMENT_NAME: EMBODIMENT})
    image = np.zeros((64, 64, 3), np.uint8)
    request = {"images": {"front": image, "wrist": image}, "instruction": "go"}
    schema = f"observation.{EMBODIMENT_NAME}"
    with pytest.raises(ContractMismatch):
        read_observation(request, contract, 64)
    assert "state" in describe(contract)["components"]["schemas"][schema]["required"]
    stateless = dataclasses.replace(contract, prompt="what to do to {instruction}?")
    middle = np.add(EMBODIMENT.state.low, EMBODIMENT.state.high) / 2
    assert np.allclose(read_observation(request, stateless, 64).state, middle)
    with pytest.raises(ContractMismatch):
        read_observation({**request, "state": [0.1]}, stateless, 64)
    assert describe(stateless)["components"]["schemas"][schema]["required"] == ["images"]


class Gripping:
    """A policy that opens the gripper while x is positive, and closes it otherwise."""

    contract = PolicyContract({EMBODIMENT_NAME: EMBODIMENT}, chunk=2, execute=2)

    def reset(self, ids):
        pass

    def act(self, observations):
        from vla.observation import ActionChunk

        rows = [[o.images["front"].mean(), 0, 0, 0, 0, 0, -1.0 if o.state[0] > 0 else 1.0] for o in observations]
        return [ActionChunk(np.array([row] * 2), np.zeros(2, bool)) for row in rows]


def test_our_own_openvla_client_gets_the_gripper_back(observed):
    one_camera = dataclasses.replace(EMBODIMENT, cameras=EMBODIMENT.cameras[:1])
    policy = Gripping()
    policy.contract = dataclasses.replace(
        Gripping.contract, embodiments={EMBODIMENT_NAME: one_camera}, prompt="to {instruction}?"
    )
    with running(policy) as url:
        remote = load_policy(f"openvla+{url}", embodiments={EMBODIMENT_NAME: one_camera})
        observation = observed()
        actions = remote.act([dataclasses.replace(observation, embodiment=EMBODIMENT_NAME)])[0].actions
        # The state is not sent, so x is zero there.
        assert actions[0, 6] == 1 and actions[0, 0] == pytest.approx(observation.images["front"].mean())


def droid():
    state = Space(tuple(f"j{i}" for i in range(7)) + ("gripper",), ("rad",) * 7 + ("",), (-4.0,) * 8, (4.0,) * 8)
    action = Space(tuple(f"v{i}" for i in range(7)) + ("gripper",), ("rad/s",) * 7 + ("",), (-1.0,) * 8, (1.0,) * 8)
    keys = {
        "observation/exterior_image_1_left": "exterior",
        "observation/wrist_image_left": "wrist",
        "observation/gripper_position": "state[7:8]",
        "observation/joint_position": "state[0:7]",
        "prompt": "instruction",
    }
    cameras = (Camera("exterior", 64, 64), Camera("wrist", 64, 64))
    embodiment = Embodiment(cameras, state, action, control_hz=15, gripper="0 open, 1 closed", keys={"openpi-droid": keys})
    return PolicyContract({"droid": embodiment}, chunk=10, execute=8)


class Echo:
    """A policy whose actions are the state."""

    contract = droid()

    def reset(self, ids):
        pass

    def act(self, observations):
        from vla.observation import ActionChunk

        return [ActionChunk(np.repeat(o.state[None], 10, 0), np.zeros(10, bool)) for o in observations]


def array(value):
    return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}


def test_droid_keys_make_one_state(observed):
    joints, gripper = np.arange(7.0), np.array([0.5])
    image = np.zeros((64, 64, 3), np.uint8)
    message = {
        "observation/exterior_image_1_left": array(image),
        "observation/wrist_image_left": array(image),
        "observation/joint_position": array(joints),
        "observation/gripper_position": array(gripper),
        "prompt": "go",
    }
    with running(Echo()) as url:
        with connect(url.replace("http", "ws"), compression=None) as client:
            client.recv()
            client.send(msgpack.packb(message))
            frame = client.recv()
            actions = msgpack.unpackb(frame)["actions"]
            assert actions[b"shape"] == [10, 8] and np.frombuffer(actions[b"data"])[:8].tolist() == [*joints, 0.5]
            # openpi's format to the byte: a map of four, bytes keys, dtype.str, shape.
            head = b"\xa7actions\x84\xc4\x0b__ndarray__\xc3\xc4\x04data\xc5\x02\x80"
            assert head in frame and b"\xc4\x05dtype\xa3<f8\xc4\x05shape\x92\x0a\x08" in frame
            assert msgpack.packb(msgpack.unpackb(frame)) == frame
            del message["observation/gripper_position"]
            client.send(msgpack.packb(message))
            assert "observation/gripper_position missing" in client.recv()
        remote = OpenpiPolicy(url.replace("http", "ws"), {})
        observation = dataclasses.replace(observed(), images={"exterior": image, "wrist": image}, state=np.arange(8.0))
        assert remote.act([observation])[0].actions[3].tolist() == list(range(8))
        remote.close()


def test_a_key_map_reads_back_what_it_wrote(observed):
    contract = droid()
    maps, keys = KeyMaps(contract), contract.embodiment().keys["openpi-droid"]
    observation = dataclasses.replace(observed(), images={"exterior": 1, "wrist": 2}, state=np.arange(8.0))
    request = maps.to_request(to_message(observation, keys))
    assert (
        request["state"] == observation.state.tolist()
        and request["images"] == observation.images
        and request["embodiment"] == "droid"
    )
    with pytest.raises(ContractMismatch, match="send 7"):
        maps.to_request({**to_message(observation, keys), "observation/joint_position": [1.0]})


def test_starvlas_envelope_keeps_errors_and_the_connection(url, observed):
    observation = observed()
    images = {name: array(image) for name, image in observation.images.items()}
    payload = {"images": images, "state": array(observation.state), "prompt": "go"}
    with connect(url.replace("http", "ws")) as client:
        client.recv()

        def ask(**message):
            client.send(msgpack.packb(message))
            return msgpack.unpackb(client.recv())

        assert ask(type="ping", request_id="1") == {"status": "ok", "ok": True, "type": "ping", "request_id": "1"}
        wrong = ask(type="infer", request_id="2", payload={"state": 1})
        assert wrong["status"] == "error" and not wrong["ok"] and "images" in wrong["error"]["message"]
        assert ask(type="dance", request_id="3", payload={})["ok"] is False
        good = ask(type="infer", request_id="4", payload=payload)
        assert good["type"] == "inference_result" and good["request_id"] == "4" and good["data"]["info"]["calls"] == 1
        assert ask(type="infer", request_id="5", **payload)["data"]["info"]["calls"] == 2
        assert (
            ask(type="reset", request_id="6")["ok"]
            and ask(type="infer", request_id="7", payload=payload)["data"]["info"]["calls"] == 1
        )


def test_several_policies_by_name(policy_class, contract, observed, payload):
    other = policy_class(dataclasses.replace(contract, chunk=2))
    with running({"a": policy_class(), "b": other}) as url:
        hashes = httpx.get(f"{url}/policies").json()["policies"]
        assert hashes == {"a": contract.hash, "b": other.contract.hash}
        for path, chunk in (("", 4), ("/policies/a", 4), ("/policies/b", 2)):
            assert httpx.get(f"{url}{path}/contract").json()["contract"]["chunk"] == chunk
            with connect(url.replace("http", "ws") + (path and f"{path}/ws")) as client:
                assert msgpack.unpackb(client.recv())["contract"]["chunk"] == chunk
        assert httpx.get(f"{url}/policies/c/contract").status_code == 404
