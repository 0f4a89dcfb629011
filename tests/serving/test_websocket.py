"""An independent client of openpi's protocol, with its own msgpack code."""

import msgpack
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


def pack_array(array):
    return {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": array.dtype.str, b"shape": array.shape}


def unpack_array(value):
    return np.frombuffer(value[b"data"], value[b"dtype"]).reshape(value[b"shape"])


def libero(seed=0, **changes):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (64, 64, 3), np.uint8)
    good = {
        "observation/image": pack_array(image),
        "observation/wrist_image": pack_array(image),
        "observation/state": pack_array(np.zeros(5)),
        "prompt": "pick up the red cube",
    }
    return image, {**good, **changes}


@pytest.mark.parametrize("path", ["", "/ws"])
def test_metadata_then_an_answer_per_observation(url, path, contract):
    with connect(url.replace("http", "ws") + path, compression=None, max_size=None) as client:
        assert msgpack.unpackb(client.recv())["contract_hash"] == contract.hash
        for seed in range(3):
            image, message = libero(seed)
            client.send(msgpack.packb(message))
            answer = msgpack.unpackb(client.recv())
            actions = unpack_array(answer["actions"])
            assert actions.shape == (contract.chunk, 7) and actions[0, 0] == pytest.approx(image.mean())
            assert answer["info"]["calls"] == seed + 1
            assert "infer_ms" in answer["server_timing"] and ("prev_total_ms" in answer["server_timing"]) == (seed > 0)


def test_our_own_field_names_too(url):
    image, message = libero()
    request = {
        "images": {"front": message["observation/image"], "wrist": message["observation/wrist_image"]},
        "state": [0.0] * 5,
        "prompt": "go",
    }
    with connect(url.replace("http", "ws")) as client:
        client.recv()
        client.send(msgpack.packb(request))
        assert unpack_array(msgpack.unpackb(client.recv())["actions"])[0, 0] == pytest.approx(image.mean())


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (b"\xc1", "not msgpack"),
        (msgpack.packb([1]), "map"),
        ("text", "binary"),
        (msgpack.packb(libero(**{"observation/state": [float("nan")] * 5})[1]), "NaN"),
        (
            msgpack.packb(libero(**{"observation/image": {b"__ndarray__": True, b"data": b"", b"dtype": "O", b"shape": [1]}})[1]),
            "dtype",
        ),
        (msgpack.packb({"prompt": "x"}), "images"),
        (msgpack.packb(libero(prompt="break")[1]), "the policy failed"),
    ],
)
def test_an_error_is_a_text_frame_then_close_1011_and_others_go_on(url, message, says):
    with connect(url.replace("http", "ws")) as other:
        other.recv()
        with connect(url.replace("http", "ws")) as client:
            client.recv()
            client.send(message)
            answer = client.recv()
            assert isinstance(answer, str) and says in answer and "Traceback" not in answer
            with pytest.raises(ConnectionClosed) as closed:
                client.recv()
            assert closed.value.rcvd.code == 1011
        other.send(msgpack.packb(libero()[1]))
        assert isinstance(other.recv(), bytes)


def test_a_malformed_answer_is_an_error(url):
    with connect(url.replace("http", "ws"), compression=None, max_size=None) as client:
        client.recv()
        client.send(msgpack.packb(libero(prompt="stutter")[1]))
        assert "malformed: 3 of 7 numbers" in client.recv()
        with pytest.raises(ConnectionClosed):
            client.recv()
