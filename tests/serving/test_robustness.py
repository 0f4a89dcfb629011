"""Malformed messages over all protocols: the server keeps answering good clients, and its memory stays bounded.

A short version always runs; `-m slow` sends 10,000 messages.
"""

import ast
import base64
import contextlib
import io
import json
import os
import re
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import httpx
import msgpack
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from vla.protocols.wire import encode_array, pack, unpack

PROGRAM = """
import sys
import torch  # every served policy uses it, and it resizes images
sys.path.insert(0, {folder!r})
from conftest import MeanPixelPolicy
from vla.serving.options import ServerOptions
from vla.serving.server import serve
serve({{"policy": MeanPixelPolicy()}}, port=0, options=ServerOptions(slow_s=4.0))
"""
IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
GROWTH = 150
"""MiB by which the server's memory may grow; an image of 4096 pixels per side takes 50 MiB while it is read."""


@pytest.fixture(scope="module")
def server():
    program = PROGRAM.format(folder=os.path.dirname(__file__))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout
    match = re.search(r"http://(\S+)", process.stdout.readline())
    assert match
    address = match[1]
    for _ in range(200):
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"http://{address}/healthz").status_code == 200:
                break
    check_good_clients(address)
    before = psutil.Process(process.pid).memory_info().rss
    yield address
    check_good_clients(address)
    growth = (psutil.Process(process.pid).memory_info().rss - before) / 2**20
    process.terminate()
    assert process.wait(30) == 0
    assert growth < GROWTH, f"memory grew by {growth:.0f} MiB"


def check_good_clients(address):
    """Good clients of three protocols get the right answers."""
    mean = pytest.approx(IMAGE.mean())
    images = {"front": encode_array(IMAGE), "wrist": encode_array(IMAGE)}
    rest = {"state": [0.0] * 5, "instruction": "go"}
    assert httpx.post(f"http://{address}/act", json={"images": images, **rest}).json()["actions"][0][0] == mean
    openvla = httpx.post(f"http://{address}/act", json={"image": images["front"], "wrist": images["wrist"], **rest}).json()
    assert np.frombuffer(base64.b64decode(openvla["__numpy__"]))[0] == mean
    with connect(f"ws://{address}", compression=None) as client:
        client.recv()
        client.send(pack({"images": {"front": IMAGE, "wrist": IMAGE}, "state": np.zeros(5), "prompt": "go"}))
        assert unpack(client.recv())["actions"][0, 0] == mean


def over_http(address, content, path="/act"):
    answer = httpx.post(f"http://{address}{path}", content=content)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"]["what"] and "Traceback" not in answer.text


def over_websocket(address, content):
    with connect(f"ws://{address}", compression=None, max_size=None) as client:
        client.recv()
        client.send(content)
        answer = client.recv()
        assert "Traceback" not in str(answer)


def raw(address, content):
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as client, contextlib.suppress(OSError):
        client.sendall(content)
        client.shutdown(socket.SHUT_WR)
        client.settimeout(5)
        assert b"Traceback" not in client.recv(4096)


# Values of JSON and msgpack: known names, often with wrong content.
NAMES = st.sampled_from(
    ["images", "image", "full_image", "state", "instruction", "prompt", "id", "embodiment", "encoded", "front", "wrist", "ids"]
    + ["__numpy__", "dtype", "shape", "observation/image", "observation/state", "unnorm_key", "question", "type", "payload"]
)
LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=20)
ARRAYS = st.fixed_dictionaries(
    {
        "__numpy__": st.binary(max_size=30).map(lambda b: base64.b64encode(b).decode()) | LEAVES,
        "dtype": st.sampled_from(["|u1", "<f4", "<f8", "O", "V8", "<c8", "x", "|S3"]) | LEAVES,
        "shape": st.lists(st.integers(-2, 2**40), max_size=10) | LEAVES,
    }
)
JSON = st.recursive(
    LEAVES | ARRAYS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=6), max_leaves=12
)
PACKED = st.recursive(
    LEAVES
    | st.binary(max_size=30)
    | st.fixed_dictionaries(
        {b"__ndarray__": st.just(True)},
        optional={
            b"data": st.binary(max_size=30) | LEAVES,
            b"dtype": st.sampled_from(["|u1", "<f4", "O", "V8", "<c8", "|O", "x"]) | LEAVES,
            b"shape": st.lists(st.integers(-2, 2**40), max_size=10) | LEAVES,
        },
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=6),
    max_leaves=12,
)


def malformed(examples):
    """Returns a run of that many messages, a quarter over each protocol."""

    def run(address):
        common = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
        quarter = settings(max_examples=examples // 4, **common)

        @quarter
        @given(JSON)
        def http(value):
            over_http(address, json.dumps(value), "/act")

        @quarter
        @given(PACKED, st.integers(0, 40))
        def websocket(value, cut):
            content = msgpack.packb(value)
            over_websocket(address, content[:-cut] if cut < len(content) and cut > 20 else content)

        @quarter
        @given(st.dictionaries(NAMES, JSON, max_size=5), st.booleans())
        def openvla(value, doubled):
            value = {**value, "image": value.get("image")}
            over_http(address, json.dumps({"encoded": json.dumps(value)} if doubled else value))

        @quarter
        @given(st.binary(max_size=200), st.sampled_from([b"", b"POST /act HTTP/1.1\r\nHost: a\r\n", b"GET / HTTP/1.1\r\n"]))
        def bare(content, head):
            raw(address, head + content)

        for kind in (http, websocket, openvla, bare):
            kind()
            check_good_clients(address)

    return run


def test_malformed_messages(server):
    malformed(120)(server)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_malformed_messages(server):
    malformed(10_000)(server)


def bomb(width, height):
    """Returns a PNG of one colour and that size: a few kilobytes that decode to gigabytes."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    lines = zlib.compressobj(9)
    data = b"".join(lines.compress(b"\0" * (1 + 3 * width)) for _ in range(height)) + lines.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def array(data=b"", dtype="|u1", shape=(64, 64, 3)):
    return {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": list(shape)}


def observation(**changes):
    image = array(IMAGE.tobytes())
    return {"images": {"front": image, "wrist": image}, "state": [0.0] * 5, "prompt": "go", **changes}


WHOLE = msgpack.packb(observation())
MESSAGES = {
    "truncated": WHOLE[: len(WHOLE) // 2],
    "twice": WHOLE * 2,
    "wrong dtype": msgpack.packb(observation(images={"front": array(IMAGE.astype("f4").tobytes(), "<f4"), "wrist": array()})),
    "huge shape, little data": msgpack.packb(
        observation(images={"front": array(b"abc", shape=(2**31, 2**31, 3)), "wrist": array()})
    ),
    "negative shape": msgpack.packb(observation(state=array(b"", shape=(-1,)))),
    "object dtype": msgpack.packb(observation(state=array(b"\x80\x04N.", "|O", (1,)))),
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
    "deep nesting": b"\x91" * 100_000 + b"\xc0",
    "deep maps": b"\x81\xa1a" * 5_000 + b"\xc0",
    "an array that declares a large size": b"\xdd\xff\xff\xff\xff",
    "a text that declares a large size": b"\xdb\xff\xff\xff\xff",
    "decompression bomb": msgpack.packb(observation(images={"front": bomb(30_000, 2_000), "wrist": bomb(30_000, 2_000)})),
    "keys that are not text": msgpack.packb({1: 2, None: 3, 2.5: 4}),
    "an extension": msgpack.packb(msgpack.ExtType(5, b"x")),
    "NaN": msgpack.packb(observation(state=[float("nan")] * 5)),
    "infinite": msgpack.packb(observation(state=[1e999] * 5)),
    "millions of maps": b"\xdd" + struct.pack(">I", 900) + (b"\xdc" + struct.pack(">H", 900) + b"\x80" * 900) * 900,
    "a long list": b"\xdd" + struct.pack(">I", 2**24) + b"\x90" * 2**24,
}


@pytest.mark.parametrize("name", MESSAGES)
def test_handwritten_messages(server, name):
    over_websocket(server, MESSAGES[name])
    with contextlib.suppress(httpx.RemoteProtocolError):
        over_http(server, MESSAGES[name])
    check_good_clients(server)


PNG = base64.b64encode(bomb(64, 64)).decode()
BOMB = base64.b64encode(bomb(30_000, 2_000)).decode()
FINE = {"images": {"front": PNG, "wrist": PNG}, "state": [0.0] * 5, "instruction": "go"}
JSON_MESSAGES = {
    "decompression bomb": {**FINE, "images": {"front": BOMB, "wrist": BOMB}},
    "a bomb for OpenVLA": {"image": BOMB, "wrist": PNG, "state": [0.0] * 5, "instruction": "go"},
    "a bomb, doubly encoded": {"encoded": json.dumps({"image": BOMB, "instruction": "go"})},
    "huge shape, little data": {**FINE, "state": {"__numpy__": "AAAA", "dtype": "|u1", "shape": [2**31, 2**31]}},
    "object dtype": {**FINE, "state": {"__numpy__": "gARLAS4=", "dtype": "O", "shape": [1]}},
    "a record": {**FINE, "state": {"__numpy__": "AAAA", "dtype": [["a", "|u1"]], "shape": [3]}},
    "deeply encoded": {"encoded": json.dumps({"encoded": json.dumps({"image": PNG})})},
    "half an image": {**FINE, "images": {"front": PNG[: len(PNG) // 2 // 4 * 4], "wrist": PNG}},
    "a number too large for a float": {**FINE, "state": [10**400] * 5},
    "millions of lists": {**FINE, "state": [[]] * 2**21},
    "millions of lists, doubly encoded": {"encoded": json.dumps({"image": PNG, "state": [[]] * 2**21})},
    "half a character": {**FINE, "instruction": "\ud800"},
    "half a character as a name": {**FINE, "images": {}, "\udfff": 1},
    "half a character as a camera": {**FINE, "images": {"\ud800": PNG}},
    "half a character, doubly encoded": {"encoded": json.dumps({"image": "\ud800", "unnorm_key": "\ud800"})},
}


@pytest.mark.parametrize("name", JSON_MESSAGES)
def test_handwritten_json(server, name):
    assert httpx.post(f"http://{server}/act", json=FINE).status_code == 200
    over_http(server, json.dumps(JSON_MESSAGES[name]))
    check_good_clients(server)


def rotated(kind):
    """Returns an image file whose EXIF tag says to rotate it."""
    image, file = Image.new("RGB", (64, 64), (200, 100, 30)), io.BytesIO()
    exif = image.getexif()
    exif[274], exif[270], exif[282] = 6, "a robot", 72.0
    image.save(file, kind, exif=exif)
    return file.getvalue()


@settings(max_examples=60, deadline=None, database=None)
@example(rotated("JPEG"), [(41, 0)])  # The tag's type: a struct.error, which is not a ValueError.
@given(
    st.sampled_from([rotated("PNG"), rotated("JPEG")]), st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), max_size=6)
)
def test_damaged_images_are_the_clients_fault(server, content, changes):
    content = bytearray(content)
    for offset, value in changes:
        content[offset % len(content)] = value
    image = base64.b64encode(content).decode()
    answer = httpx.post(f"http://{server}/act", json={**FINE, "images": {"front": image, "wrist": PNG}})
    assert answer.status_code in (200, 400, 422), answer.text


def test_largest_images_are_read_and_released(server):
    large = base64.b64encode(bomb(4096, 4096)).decode()
    answer = httpx.post(
        f"http://{server}/act",
        json={"images": {"front": large, "wrist": large}, "state": [0.0] * 5, "instruction": "go"},
        timeout=60,
    )
    assert answer.status_code == 200 and answer.json()["actions"][0][0] == 0
    deep = httpx.post(f"http://{server}/act", content=b"[" * 200_000)
    assert deep.status_code == 400


def test_nothing_can_unpickle():
    root = Path(__file__).resolve().parents[2]
    files = [*(root / "vla/serving").rglob("*.py"), *(root / "client").rglob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    imported = {alias.name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    called = {node.attr for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node).startswith(("np.", "torch."))}
    assert (
        len(files) > 20
        and not imported & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
        and "load" not in called
    )


def test_half_open_and_slow_connections_are_closed(server):
    host, port = server.split(":")
    connections = []
    for start in (b"", b"POST /act HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n") * 10:
        connections.append(socket.create_connection((host, int(port))))
        connections[-1].sendall(start)
    check_good_clients(server)
    for connection in connections:
        connection.settimeout(10)
        with contextlib.suppress(ConnectionError):
            assert connection.recv(100) == b""
        connection.close()
    with contextlib.suppress(WebSocketException), connect(f"ws://{server}") as client:
        client.recv()
        # The client disappears in the middle of a frame.
        client.socket.sendall(b"\x82\x7e\xff\xff")
        # The server may have closed the connection because the frame is not masked.
        with contextlib.suppress(OSError):
            client.socket.shutdown(socket.SHUT_RDWR)
    check_good_clients(server)
