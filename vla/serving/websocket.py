"""openpi's websocket protocol: msgpack maps with numpy arrays, one answer per observation.

After openpi's websocket_policy_server.py: the server speaks first (metadata), an error is a text frame followed by close 1011.
Ours carries the message only, never a traceback. An observation has our field names, or those of a key map of the contract.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from vla.contract import PolicyContract
from vla.errors import UserError
from vla.serving.observations import observation
from vla.serving.runner import Runner
from vla.serving.wire import pack, plain, unpack


def routes(runner: Runner) -> APIRouter:
    """The websocket at / (where openpi's client looks) and /ws."""
    router, contract = APIRouter(), runner.policy.contract
    metadata = pack({"contract_hash": contract.hash, "contract": plain(contract.to_dict())})

    @router.websocket("/")
    @router.websocket("/ws")
    async def converse(socket: WebSocket) -> None:
        await socket.accept()
        # The protocol has no stream ids: a connection is a stream.
        stream = f"ws-{id(socket)}"
        try:
            await socket.send_bytes(metadata)
            await runner.reset([stream])
            await _loop(socket, runner, stream)
        except WebSocketDisconnect:
            pass
        except UserError as error:
            await _fail(socket, str(error))
        except Exception as error:
            await _fail(socket, f"the policy failed with {type(error).__name__}, see the server's log")
            raise
        finally:
            await runner.reset([stream])

    return router


async def _loop(socket: WebSocket, runner: Runner, stream: str) -> None:
    total = None
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        start = time.perf_counter()
        content = message.get("bytes")
        if content is None:
            raise UserError("a text frame", "message", "send msgpack in a binary frame")
        seen = await asyncio.to_thread(_read, content, runner.policy.contract, stream)
        chunk, milliseconds = await runner.act(seen)
        if chunk.status:
            # openpi's clients look at nothing but the actions.
            raise UserError(f"the policy's answer is {chunk.status}", "policy")
        timing = {"infer_ms": milliseconds} | ({"prev_total_ms": total} if total is not None else {})
        answer = {"actions": chunk.actions, "terminate": chunk.terminate, "info": plain(chunk.info), "state": seen.state}
        await socket.send_bytes(pack({**answer, "policy_timing": {"infer_ms": milliseconds}, "server_timing": timing}))
        total = 1e3 * (time.perf_counter() - start)


def _read(content: bytes, contract: PolicyContract, stream: str):
    return observation({**_ours(unpack(content), contract), "id": stream}, contract)


def _ours(message: Any, contract: PolicyContract) -> dict[str, Any]:
    """The message under our field names: as it is, or by the first key map of the contract that all its keys fit."""
    if not isinstance(message, dict):
        raise UserError(f"expected a map, got {type(message).__name__}", "message")
    if "prompt" in message and "instruction" not in message:
        message = {"instruction" if key == "prompt" else key: value for key, value in message.items()}
    for name, embodiment in contract.embodiments.items():
        for keys in embodiment.keys.values():
            keys = {("instruction" if key == "prompt" else key): place for key, place in keys.items()}
            if not message.keys() ^ keys.keys():
                request: dict[str, Any] = {"images": {}, "embodiment": name}
                for key, place in keys.items():
                    (request if place in ("state", "instruction") else request["images"])[place] = message[key]
                return request
    return message


async def _fail(socket: WebSocket, why: str) -> None:
    try:
        await socket.send_text(why)
        await socket.close(1011, "See the previous frame.")
    except (WebSocketDisconnect, RuntimeError):
        return
