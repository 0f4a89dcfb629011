"""A client that hangs up is a 499: never a traceback, never counted as an error of the server."""

import asyncio
import json
import logging
import socket
import ssl
import struct
import time

import httpx
import pytest
from starlette.websockets import WebSocketDisconnect

from vla.protocols.wire import encode_array, pack
from vla.serving.clients import Client, Clients
from vla.serving.metrics import Metrics
from vla.serving.options import ServerOptions
from vla.serving.refusal import Refusal
from vla.serving.server import running
from vla.serving.service import Service

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def with_length(path, length, content=b""):
    return b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (path, length, content)


def chunked(path, content):
    return b"POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%s" % (path, content)


def frame(content):
    return b"\x82\xff" + struct.pack("!Q", len(content)) + bytes(4) + content


def hang_up(address, content, reset, wrap):
    host, port = address.split("://")[1].split(":")
    client = wrap(socket.create_connection((host, int(port))))
    if content.startswith(UPGRADE):
        client.sendall(UPGRADE)
        assert client.recv(20).startswith(b"HTTP/1.1 101")
    client.sendall(content.removeprefix(UPGRADE))
    time.sleep(0.02)
    if reset:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.fixture(scope="module", params=["http", "https"])
def served(request, policy_class):
    """The address of a server, and what makes a socket one of its clients."""

    class Slow(policy_class):
        def act(self, observations):
            time.sleep(0.1 if observations[0].instruction == "slow" else 0.0)
            return super().act(observations)

    if request.param == "http":
        with running(Slow()) as url:
            yield url, lambda client: client
        return
    tls = request.getfixturevalue("certificate")
    context = ssl.create_default_context(cafile=tls[0])
    with running(Slow(), tls=tls) as url:
        yield url, lambda client: context.wrap_socket(client, server_hostname="127.0.0.1")


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_no_hang_up_is_an_error_of_the_server(served, reset, observed, caplog):
    url, wrap = served
    caplog.set_level(logging.INFO)
    observation = observed()
    images = {name: encode_array(image) for name, image in observation.images.items()}
    body = json.dumps({"images": images, "state": [0.0] * 5, "instruction": "slow"}).encode()
    message = pack({"images": observation.images, "state": observation.state, "prompt": "slow"})
    # Content, and whether it is a request that is counted.
    hangups = [
        *((with_length(path, len(body), body[:500]), path != b"/reset") for path in (b"/act", b"/ask", b"/reset")),
        *((chunked(path, b"400\r\n" + body[:100]), path != b"/reset") for path in (b"/act", b"/ask", b"/reset")),
        (with_length(b"/policies/policy/act", len(body)), True),
        (chunked(b"/act", b"zz\r\n"), True),
        (with_length(b"/act", len(body), body), True),
        (with_length(b"/", 1000, b"x"), False),
        (b"GET /console.js HTTP/1.1\r\nHost: a\r\n\r\n", False),
        (b"GET /docs HTTP/1.1\r\nHost: a\r\n\r\n", False),
        (b"POST /act HTTP/1.1\r\nHos", False),
        (UPGRADE, False),
        (UPGRADE + frame(message)[:500], False),
        (UPGRADE + frame(message), True),
    ]
    for content, _ in hangups:
        hang_up(url, content, reset, wrap)
    counted, deadline = sum(counted for _, counted in hangups), time.monotonic() + 20

    def requests():
        return [record.fields for record in caplog.records if record.getMessage() == "request"]

    while len(requests()) < counted and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [request["status"] for request in requests()] == [499] * counted
    assert not [record.getMessage() for record in caplog.records if record.exc_info or record.levelno > logging.WARNING]
    assert all(record.levelno == logging.INFO for record in caplog.records if record.name == "vla.serving")
    text = httpx.get(f"{url}/metrics", verify=False).text
    assert 'status="499"' in text and 'status="500"' not in text


def test_a_slow_body_is_a_408_and_a_client_that_leaves_earlier_a_499(policy_class, caplog):
    caplog.set_level(logging.INFO, "vla.serving")
    with running(policy_class(), options=ServerOptions(slow_s=0.3)) as url:
        host, port = url.split("://")[1].split(":")
        hang_up(url, with_length(b"/act", 1000, b"{"), False, lambda client: client)
        with socket.create_connection((host, int(port))) as client:
            client.sendall(with_length(b"/act", 1000, b"{"))
            assert client.recv(100).startswith(b"HTTP/1.1 408")
    assert [record.fields["status"] for record in caplog.records if record.getMessage() == "request"] == [499, 408]


def test_an_answer_that_finds_nobody_is_a_499(policy_class, caplog):
    async def send_to_nobody():
        service = Service(policy_class(), ServerOptions(), Metrics())
        with service.track(Client("me", "1", Clients(ServerOptions())), "openpi"):
            raise WebSocketDisconnect(1006)

    with pytest.raises(Refusal, match="disconnected") as refusal:
        asyncio.run(send_to_nobody())
    assert refusal.value.status == 499 and not [record for record in caplog.records if record.exc_info]
