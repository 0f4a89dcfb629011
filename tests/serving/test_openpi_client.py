"""Replies to openpi's protocol are what its clients slice: with the published client, and as its broker reads them."""

import dataclasses

import msgpack
import numpy as np
import pytest
from websockets.sync.client import connect

from vla.protocols.wire import pack, unpack
from vla.serving.server import running

CHUNKS = (2, 8, 50)
"""Shorter than the state of the test's contract, longer, and openpi's own length."""


def observation(observed, seed):
    seen = observed(seed)
    images = {"observation/image": seen.images["front"], "observation/wrist_image": seen.images["wrist"]}
    return {**images, "observation/state": seen.state, "prompt": seen.instruction}


@pytest.fixture(scope="module", params=CHUNKS)
def served(request, policy_class, contract):
    with running(policy_class(dataclasses.replace(contract, chunk=request.param, execute=1))) as url:
        yield request.param, url.replace("http", "ws")


def arrays(value):
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from arrays(part)
    elif isinstance(value, list):
        for part in value:
            yield from arrays(part)


def test_each_array_of_a_reply_has_a_row_per_action(served, observed):
    chunk, url = served
    with connect(url, compression=None) as client:
        client.recv()
        message = pack(observation(observed, 0))
        client.send(message)
        reply = unpack(client.recv())
        client.send(msgpack.packb({"type": "infer", "request_id": "1", "payload": msgpack.unpackb(message)}))
        enveloped = unpack(client.recv())["data"]
    for answer in (reply, enveloped):
        assert answer["actions"].shape == (chunk, 7) and {len(array) for array in arrays(answer)} == {chunk}
        assert set(answer) == {"actions", "terminate", "info", "policy_timing", "server_timing"}


def test_the_published_broker_executes_whole_chunks(served, observed):
    pytest.importorskip("openpi_client")
    from openpi_client.action_chunk_broker import ActionChunkBroker
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    chunk, url = served
    broker = ActionChunkBroker(WebsocketClientPolicy(url), chunk)
    for step in range(2 * chunk + 1):
        seen = observation(observed, step)
        if step % chunk == 0:
            shown = seen["observation/image"].mean()
        answer = broker.infer(seen)
        assert answer["actions"].shape == (7,) and answer["actions"][0] == pytest.approx(shown)
        assert answer["info"]["calls"] == 1 + step // chunk and not answer["terminate"]
    broker.reset()
