"""Serves a policy by openpi's protocol, for `benchmarks/serve.py --beside openpi`.

openpi_server.py SIDE EXPORT: SIDE is "equal" (a minimal equal of openpi's WebsocketPolicyServer, below), "ours" (this project's
server), or the path of a checkout of openpi, whose own server is used then. EXPORT is a folder, or "" for a policy that returns
at once. Prints the address.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import itertools
import os
import socket
import sys
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

os.environ["OMP_NUM_THREADS"] = "1"

import msgpack
import numpy as np
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from vla.contract import Camera, PolicyContract
from vla.observation import ActionChunk, Observation
from vla.policies.base import Policy
from vla.serving.observations import fit_camera
from vla.sim.tabletop.embodiment import EMBODIMENT, EMBODIMENT_NAME

SIDE = 224
CAMERAS = {"front": "observation/image", "wrist": "observation/wrist_image"}


class AtOnce:
    """A policy that returns at once, of images that need not be made smaller."""

    cameras = tuple(Camera(name, SIDE, SIDE) for name in CAMERAS)
    contract = PolicyContract({EMBODIMENT_NAME: dataclasses.replace(EMBODIMENT, cameras=cameras)}, chunk=2, execute=2)

    def reset(self, ids: Any) -> None:
        pass

    def act(self, observations: list[Observation]) -> list[ActionChunk]:
        return [ActionChunk(np.zeros((2, 7)), np.zeros(2, bool)) for _ in observations]


def make_policy(export: str) -> Policy:
    """The policy as `vla serve` loads it, with one thread; without an export the one that returns at once."""
    if not export:
        return AtOnce()
    import torch

    from vla.policies.local import LocalPolicy
    from vla.serving.options import ServerOptions, ladder

    torch.set_num_threads(1)
    return LocalPolicy.from_export(export, ladder(ServerOptions.batch), probabilities=True)


class Infer(Protocol):
    """openpi's policy."""

    def infer(self, obs: dict[str, Any]) -> dict[str, Any]: ...


class Adapted:
    """A policy of ours as openpi's: scales the images as our server does, then acts."""

    def __init__(self, policy: Policy):
        self.policy, self.cameras = policy, policy.contract.embodiment().cameras

    def infer(self, obs: dict[str, Any]) -> dict[str, Any]:
        images = {camera.name: fit_camera(obs[CAMERAS[camera.name]], camera) for camera in self.cameras}
        state = np.array(obs["observation/state"], np.float64)
        (chunk,) = self.policy.act([Observation("0", images, state, obs["prompt"])])
        return {"actions": chunk.actions}


def _pack(value: np.ndarray) -> dict[bytes, Any]:
    return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}


def _unpack(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" not in value:
        return value
    return np.ndarray(value[b"shape"], np.dtype(value[b"dtype"]), value[b"data"])


class Equal:
    """Answers one client after the other, in the thread of the event loop, with the timings that openpi's server sends."""

    def __init__(self, policy: Infer):
        self.policy = policy

    async def answer(self, client: ServerConnection) -> None:
        pack, previous = msgpack.Packer(default=_pack).pack, None
        await client.send(pack({}))
        try:
            for _ in itertools.count():
                frame = await client.recv()
                began = time.monotonic()
                observation = msgpack.unpackb(frame, object_hook=_unpack)
                before = time.monotonic()
                reply = self.policy.infer(observation)
                reply["server_timing"] = {"infer_ms": 1e3 * (time.monotonic() - before)}
                if previous is not None:
                    reply["server_timing"]["prev_total_ms"] = 1e3 * previous
                await client.send(pack(reply))
                previous = time.monotonic() - began
        except ConnectionClosed:
            pass

    async def serve(self, port: int) -> None:
        def health(client: ServerConnection, request: Request) -> Response | None:
            return client.respond(HTTPStatus.OK, "OK\n") if request.path == "/healthz" else None

        where = {"host": "127.0.0.1", "port": port, "process_request": health}
        async with serve(self.answer, **where, compression=None, max_size=None) as server:
            await server.serve_forever()


def main() -> None:
    side, export = sys.argv[1:]
    policy = make_policy(export)
    if side == "ours":
        from vla.serving.logs import log_to_stderr
        from vla.serving.server import serve as run

        log_to_stderr()
        run({"policy": policy}, port=0)
        return
    adapted, black = Adapted(policy), np.zeros((SIDE, SIDE, 3), np.uint8)
    for _ in range(3):
        adapted.infer({**dict.fromkeys(CAMERAS.values(), black), "observation/state": np.zeros(5), "prompt": "go"})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    print(f"http://127.0.0.1:{port}", flush=True)
    if side == "equal":
        asyncio.run(Equal(adapted).serve(port))
        return
    spec = importlib.util.spec_from_file_location("theirs", Path(side) / "src/openpi/serving/websocket_policy_server.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.WebsocketPolicyServer(adapted, "127.0.0.1", port).serve_forever()


if __name__ == "__main__":
    main()
