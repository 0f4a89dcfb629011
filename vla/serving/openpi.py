"""openpi's websocket protocol: msgpack maps with numpy arrays, one answer per observation.

After openpi's websocket_policy_server.py: the server speaks first (metadata), an error is a text frame followed by close 1011.
Ours carries the message only, never a traceback. An observation has our field names, or those of a key map of the contract.
starVLA's envelope, {"type", "request_id", "payload"}, is answered in kind: its errors stay in the envelope.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from vla.errors import UserError
from vla.protocols.keymaps import to_request
from vla.protocols.wire import pack, plain, unpack
from vla.serving.http import deadline_of
from vla.serving.refusal import Refusal, refused
from vla.serving.service import Answer, Service, whole

NUMBER = itertools.count()


def routes(service: Service) -> list[BaseRoute]:
    """The websocket at / (where openpi's client looks) and /ws."""
    metadata = pack({"contract_hash": service.digest, "contract": plain(service.contract.to_dict())})

    async def converse(socket: WebSocket) -> None:
        await socket.accept()
        # The protocol has no stream ids: a connection is a stream.
        stream = f"ws-{next(NUMBER)}"
        try:
            await socket.send_bytes(metadata)
            await Conversation(socket, service, stream).run()
        except (WebSocketDisconnect, ConnectionError):
            pass
        except Exception as error:  # noqa: BLE001
            await _fail(socket, refused(error))
        finally:
            await service.reset(socket.state.client, [stream])

    return [WebSocketRoute("/", converse), WebSocketRoute("/ws", converse)]


class Conversation:
    """One connection from its first observation to its end."""

    def __init__(self, socket: WebSocket, service: Service, stream: str):
        self.socket, self.service, self.stream = socket, service, stream
        self.client = socket.state.client
        self.deadline_s = deadline_of(socket.headers.get("x-deadline-ms"))
        self.total_ms: float | None = None
        self.messages = itertools.count(1)

    async def run(self) -> None:
        coming = asyncio.ensure_future(self.socket.receive())
        try:
            while (message := await coming)["type"] != "websocket.disconnect":
                # Listening goes on meanwhile, for a client that leaves takes its request with it.
                coming = asyncio.ensure_future(self.socket.receive())
                began = time.perf_counter()
                answering = asyncio.ensure_future(self._answer(message))
                try:
                    await asyncio.wait({answering, coming}, return_when=asyncio.FIRST_COMPLETED)
                    if not answering.done() and coming.result()["type"] == "websocket.disconnect":
                        return
                    await answering
                finally:
                    answering.cancel()
                self.total_ms = 1e3 * (time.perf_counter() - began)
        finally:
            coming.cancel()

    async def _answer(self, frame: Message) -> None:
        with self.service.counted(self.client, "openpi") as done:
            done["message"] = next(self.messages)
            content = frame.get("bytes")
            if content is None:
                raise UserError("a text frame", "message", "send msgpack in a binary frame")
            message = unpack(content)
            if not isinstance(message, dict):
                raise UserError(f"expected a map, got {type(message).__name__}", "message", "send one msgpack map per message")
            enveloped = _envelope(message)
            reply = await (self._enveloped(message, done) if enveloped else self._act(message, done))
            await self.socket.send_bytes(pack(reply))

    async def _act(self, message: dict[Any, Any], done: dict[str, Any]) -> dict[str, Any]:
        self.client.admit()
        request = {**to_request(message, self.service.contract), "id": self.stream}
        return self._said(await self.service.act(self.client, self.stream, request, done, self.deadline_s))

    def _said(self, answer: Answer) -> dict[str, Any]:
        whole(answer)
        timing = {"infer_ms": answer.policy_ms + answer.queued_ms}
        if self.total_ms is not None:
            timing["prev_total_ms"] = self.total_ms
        return {
            "actions": answer.chunk.actions,
            "terminate": answer.chunk.terminate,
            "info": answer.info,
            "state": answer.seen.state,
            "policy_timing": {"infer_ms": answer.policy_ms},
            "server_timing": timing,
        }

    async def _enveloped(self, message: dict[Any, Any], done: dict[str, Any]) -> dict[str, Any]:
        kind, request = message["type"], str(message.get("request_id", "default"))[:100]
        head = {"status": "ok", "ok": True, "type": kind, "request_id": request}
        try:
            if kind in ("ping", "init"):
                return head
            if kind == "reset":
                await self.service.reset(self.client, [self.stream])
                return head
            if kind not in ("infer", "predict_action"):
                raise UserError(f"unknown type {str(kind)[:60]!r}", "type", "ping, init, infer or reset")
            flat = {key: value for key, value in message.items() if key not in ("type", "request_id")}
            payload = message.get("payload", flat)
            if not isinstance(payload, dict):
                raise UserError(f"expected a map, got {type(payload).__name__}", "payload")
            return {**head, "type": "inference_result", "data": await self._act(payload, done)}
        except Exception as error:
            refusal = refused(error)
            if refusal.status == 401:
                raise
            return {**head, "status": "error", "ok": False, "type": "inference_result", "error": {"message": str(refusal)}}


def _envelope(message: dict[Any, Any]) -> bool:
    kind = message.get("type")
    return isinstance(kind, str) and ("payload" in message or "request_id" in message or kind in ("ping", "init", "reset"))


async def _fail(socket: WebSocket, refusal: Refusal) -> None:
    """1011 is an error, 1013 try again later, 1008 a key that does not hold any more."""
    code = 1008 if refusal.status == 401 else 1013 if refusal.retry_after is not None else 1011
    try:
        await socket.send_text(str(refusal))
        await socket.close(code, "See the previous frame.")
    except (WebSocketDisconnect, ConnectionError, RuntimeError):
        return
