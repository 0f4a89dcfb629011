"""`vla serve`, and clients that do what openpi's do."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgpack
import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from outside import command
from outside.trial import Differs, Trial, last

PIXELS = np.full((64, 64, 3), 120, np.uint8)


@contextlib.contextmanager
def served(trial: Trial, policy: str = "export", *more: str) -> Iterator[str]:
    """Runs `vla serve POLICY` and gives its address; ends it with SIGTERM."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output = trial.folder.with_name(f"{trial.folder.name}.log")
    process = command.start(["serve", policy, f"--port={port}", "--threads=1", *more], trial.folder, output)
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + 60
    try:
        while True:
            if process.exitcode is not None or time.monotonic() > until:
                raise Differs(f"`vla serve {policy}` does not answer (exit code {process.exitcode}): {last(output.read_text())}")
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/healthz", timeout=1).status_code == 200:
                    break
            time.sleep(0.1)
        yield url
    finally:
        command.end(process)
        output.rename(trial.folder / "server.log")


def log(trial: Trial) -> str:
    return Path(trial.folder / "server.log").read_text()


def packed(value: Any) -> dict[bytes, Any]:
    """openpi's msgpack form of arrays."""
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(type(value))


def unpacked(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        return np.frombuffer(value[b"data"], value[b"dtype"]).reshape(value[b"shape"])
    return value.get(b"data") if b"__npgeneric__" in value else value


class Client:
    """What openpi's WebsocketClientPolicy does."""

    def __init__(self, url: str):
        self.socket = connect(url.replace("http", "ws"), compression=None, max_size=None)
        self.metadata = msgpack.unpackb(self.socket.recv(), object_hook=unpacked)

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        self.socket.send(msgpack.packb(observation, default=packed))
        answer = self.socket.recv()
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return msgpack.unpackb(answer, object_hook=unpacked)


class Broker:
    """What openpi's ActionChunkBroker does: it slices every array of an answer, step by step."""

    def __init__(self, client: Client, horizon: int):
        self.client, self.horizon, self.step, self.answer = client, horizon, 0, {}

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        if not self.step:
            self.answer = self.client.infer(observation)
        result = self._slice(self.answer)
        self.step = (self.step + 1) % self.horizon
        return result

    def _slice(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._slice(each) for key, each in value.items()}
        return value[self.step, ...] if isinstance(value, np.ndarray) else value


def observation(**changes: Any) -> dict[str, Any]:
    """LIBERO's keys; None leaves one out."""
    keys = {"image": PIXELS, "wrist_image": PIXELS, "state": np.array([0, 0, 0.1, 0, 0.04], np.float32)}
    values = {**{f"observation/{k}": v for k, v in keys.items()}, "prompt": "lift the red cube"}
    values |= {k if k == "prompt" or "/" in k else f"observation/{k}": v for k, v in changes.items()}
    return {key: value for key, value in values.items() if value is not None}


def refused(url: str, message: dict[str, Any], *says: str) -> None:
    """Sends an observation that must be refused in a text frame, in words, before the connection is closed."""
    client = Client(url)
    try:
        answer = client.infer(message)
    except RuntimeError as error:
        for pattern in says:
            if not re.search(pattern, str(error), re.I | re.S):
                raise Differs(f"the refusal does not say {pattern!r}: {error}") from None
        if "Traceback" in str(error):
            raise Differs(f"the refusal holds a traceback: {error}") from None
        with contextlib.suppress(ConnectionClosed):
            client.socket.recv(timeout=5)
            raise Differs("the connection stays open after the refusal") from None
        return
    except ConnectionClosed as error:
        raise Differs(f"the connection was closed without a word: {error}") from None
    raise Differs(f"it was answered: {sorted(map(str, answer))}")
