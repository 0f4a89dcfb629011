"""A state far outside the contract's range: served with a warning in every protocol, said once in the log; refused if strict."""

import dataclasses
import json

import httpx
import pytest
from websockets.sync.client import connect

from vla.protocols.wire import encode_array, pack, unpack
from vla.serving.options import ServerOptions
from vla.serving.server import running

FAR = [9.0, 0.0, 0.0, -2.5, 1.9]
SAYS = ["x (m) is 9, far outside -1 to 1", "yaw (rad) is -2.5, far outside -1 to 1"]


def act(url, observed, state=FAR, stream="a"):
    seen = observed()
    images = {name: encode_array(image) for name, image in seen.images.items()}
    return httpx.post(f"{url}/act", json={"id": stream, "images": images, "state": state, "instruction": "go"})


def openpi(observed):
    seen = observed()
    return pack({"images": seen.images, "state": FAR, "prompt": "go"})


def test_the_reply_and_the_log_name_dimension_value_and_range(policy_class, observed, caplog):
    policy = policy_class()
    with running(policy) as url:
        answers = [act(url, observed, stream=stream) for stream in "aab"]
        assert [answer.json()["info"]["warnings"] for answer in answers] == [SAYS] * 3
        assert "warnings" not in act(url, observed, [1.9] * 5).json()["info"], "half the range beyond is not far"
        lines = [record.fields for record in caplog.records if record.getMessage() == "state far outside its range"]
        assert [line["stream"][-2:] for line in lines] == ["/a", "/b"] and lines[0]["state"] == SAYS, "once per stream"
        with connect(url.replace("http", "ws"), compression=None) as client:
            client.recv()
            for _ in range(2):
                client.send(openpi(observed))
                reply = unpack(client.recv())
                assert reply["info"]["warnings"] == SAYS and reply["actions"].shape == (4, 7)
        seen = observed()
        payload = {"image": encode_array(seen.images["front"]), "wrist": encode_array(seen.images["wrist"]), "state": FAR}
        answer = httpx.post(f"{url}/act", json={**payload, "prompt": "go"})
        assert answer.status_code == 200 and json.loads(answer.headers["x-warnings"]) == SAYS
        httpx.post(f"{url}/reset", json={"ids": ["a"]})
        act(url, observed)
    lines = [record.fields["stream"] for record in caplog.records if record.getMessage() == "state far outside its range"]
    assert len(lines) == 5, "once per connection and client, and again after a reset"


def test_a_strict_server_refuses_it(policy_class, observed):
    with running(policy_class(), options=ServerOptions(strict=True)) as url:
        answer = act(url, observed)
        assert answer.status_code == 422 and answer.json()["error"]["what"] == "; ".join(SAYS)
        assert answer.json()["error"]["where"] == "state"
        with connect(url.replace("http", "ws"), compression=None) as client:
            client.recv()
            client.send(openpi(observed))
            assert SAYS[0] in client.recv()
            with pytest.raises(Exception, match="1011"):
                client.recv()
        assert act(url, observed, [0.0] * 5).status_code == 200


def test_a_dimension_s_name_may_be_anything(policy_class, contract, observed):
    embodiment = contract.embodiment()
    state = dataclasses.replace(embodiment.state, names=("é\n\r: 1", *embodiment.state.names[1:]))
    renamed = dataclasses.replace(contract, embodiments={"panda": dataclasses.replace(embodiment, state=state)})
    with running(policy_class(renamed)) as url:
        seen = observed()
        payload = {"image": encode_array(seen.images["front"]), "wrist": encode_array(seen.images["wrist"]), "state": FAR}
        answer = httpx.post(f"{url}/act", json={**payload, "instruction": "go"})
        assert answer.status_code == 200 and json.loads(answer.headers["x-warnings"])[0].startswith("é\n\r: 1 (m) is 9")
