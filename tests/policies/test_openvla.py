"""The OpenVLA client against a minimal /act server with its own json_numpy code, plain and double-encoded."""

import base64
import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from vla.errors import UserError
from vla.observation import Observation
from vla.policies.load import load_policy
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME

EMBODIMENTS = {EMBODIMENT_NAME: EMBODIMENT}
ACTION = np.array([0.01, -0.02, 0.03, 0.0, 0.0, 0.1, 0.996])


def encode(array):
    return {"__numpy__": base64.b64encode(array.tobytes()).decode(), "dtype": array.dtype.str, "shape": list(array.shape)}


@contextlib.contextmanager
def server(answer, status=200):
    """A server that sends answer(payload, double_encoded) as JSON; yields its URL and the payloads with decoded images."""
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            assert self.path == "/act"
            payload = json.loads(self.rfile.read(int(self.headers["content-length"])))
            double_encoded = "encoded" in payload
            payload = json.loads(payload["encoded"]) if double_encoded else payload
            image = payload["image"]
            payload["image"] = np.frombuffer(base64.b64decode(image["__numpy__"]), image["dtype"]).reshape(image["shape"])
            received.append(payload)
            content = json.dumps(answer(payload, double_encoded)).encode()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"openvla+http://127.0.0.1:{httpd.server_port}", received
    finally:
        httpd.shutdown()
        httpd.server_close()


def observed():
    images = {c: np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8) for c in ("front", "wrist")}
    return Observation("a", images, np.zeros(5), "lift the red cube", EMBODIMENT_NAME)


def act(url):
    policy = load_policy(url, embodiments=EMBODIMENTS)
    assert not policy.says_contract
    try:
        return policy.act([observed()])[0].actions
    finally:
        policy.close()


def plain_action(payload, double_encoded):
    return json.dumps(encode(ACTION)) if double_encoded else encode(ACTION)


@pytest.mark.parametrize("tail", ["", "/act", "?encoded=1", "/act?encoded=1&unnorm_key=bridge_orig"])
def test_both_encodings(tail):
    with server(plain_action) as (url, received):
        actions = act(url + tail)
    # Open is 1 on the server and -1 in the embodiment.
    assert np.allclose(actions, [[*ACTION[:6], -1]])
    assert np.array_equal(received[0]["image"], observed().images["front"])
    assert received[0]["instruction"] == "lift the red cube"
    assert received[0].get("unnorm_key") == ("bridge_orig" if "unnorm" in tail else None)


def test_chunks_lists_and_the_raw_gripper():
    with server(lambda *_: [encode(ACTION), encode(ACTION * 0)]) as (url, _):
        assert act(url)[:, 6].tolist() == [-1, 1] and np.allclose(act(f"{url}?gripper=raw")[:, 6], [0.996, 0])
    with server(lambda *_: ACTION.tolist()) as (url, _):
        assert act(f"{url}?camera=wrist").shape == (1, 7)


def test_the_middle_of_an_image_is_sent_in_its_size():
    rising = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    with server(lambda *_: ACTION.tolist()) as (url, received):
        policy = load_policy(f"{url}?center_crop=1", embodiments=EMBODIMENTS)
        policy.act([Observation("a", {"front": rising, "wrist": rising}, np.zeros(5), "lift", EMBODIMENT_NAME)])
        policy.close()
    sent = received[0]["image"]
    # Each side loses (1 - sqrt(0.9)) / 2 of 64 pixels, 1.64.
    assert sent.shape == (64, 64, 3) and sent[:, 0].max() == 2 and sent[:, -1].min() == 61


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [("error", 200, "reports an error"), ("ups", 200, "not JSON"), ({"x": 1}, 200, "array without"), ("no", 500, "answered 500")],
)
def test_errors_of_the_server_are_reported(answer, status, says):
    with server(lambda *_: answer, status) as (url, _), pytest.raises(UserError, match=says):
        act(url)


@pytest.mark.parametrize(
    ("tail", "says"),
    [("?colour=red", "unknown option 'colour'"), ("?encoded=2", "encoded=2"), ("?camera=rear", "no camera 'rear'")],
)
def test_unknown_options_are_refused(tail, says):
    with pytest.raises(UserError, match=says):
        act("openvla+http://127.0.0.1:9" + tail)


def test_a_missing_server_is_reported():
    with pytest.raises(UserError, match="cannot be reached"):
        act("openvla+http://127.0.0.1:9")
