"""openpi's websocket protocol: msgpack maps with numpy arrays, one answer per observation.

After openpi's websocket_policy_server.py: the server sends metadata first; an error is a text frame followed by close code 1011.
Our text frame holds the message only, never a traceback. An observation has our field names, or those of one of the contract's
key maps. starVLA's envelope, {"type", "request_id", "payload"}, is answered with an envelope, which also carries its errors.
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
from vla.protocols.keymaps import KeyMaps
from vla.protocols.wire import Value, pack, packer, plain, unpack
from vla.serving.http import parse_deadline
from vla.serving.refusal import Refusal, as_refusal
from vla.serving.service import Answer, RequestLog, Service

CONNECTION_NUMBERS = itertools.count()
LISTEN_S = 0.01
"""Seconds of an answer after which it is worth listening for the client's disconnection."""


def routes(service: Service) -> list[BaseRoute]:
    """Returns the websocket routes: / (where openpi's client connects) and /ws."""
    metadata = pack({"contract_hash": service.digest, "contract": plain(service.contract.to_dict())})
    keymaps = KeyMaps(service.contract)

    async def serve_connection(socket: WebSocket) -> None:
        # The protocol has no stream ids, so each connection is a stream.
        stream = f"ws-{next(CONNECTION_NUMBERS)}"
        try:
            await socket.accept()
            await socket.send_bytes(metadata)
            await Connection(socket, service, stream, keymaps).run()
        except (WebSocketDisconnect, ConnectionError):
            pass
        except Exception as error:  # noqa: BLE001
            await _close(socket, as_refusal(error))
        finally:
            await service.reset(socket.state.client, [stream])

    return [WebSocketRoute("/", serve_connection), WebSocketRoute("/ws", serve_connection)]


class Connection:
    """An open connection: receives observations and sends the answers."""

    def __init__(self, socket: WebSocket, service: Service, stream: str, keymaps: KeyMaps):
        self.socket, self.service, self.stream, self.keymaps = socket, service, stream, keymaps
        self.client = socket.state.client
        self.deadline_s = parse_deadline(socket.headers.get("x-deadline-ms"))
        self.previous_ms: float | None = None
        self.message_numbers = itertools.count(1)
        self._pack = packer()
        # The frame that arrives while another one is answered.
        self._ahead: asyncio.Task[Message] | None = None
        self._gone = False

    async def run(self) -> None:
        """Answers one frame after the other until the client disconnects."""
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task
        try:
            while (frame := await self._receive())["type"] != "websocket.disconnect":
                start = time.perf_counter()
                # Within a long call the timer would interrupt the policy.
                quick = self.service.batcher.seconds < LISTEN_S
                listening = loop.call_later(LISTEN_S if quick else 0.0, self._listen, task)
                try:
                    await self._answer(frame)
                finally:
                    listening.cancel()
                self.previous_ms = 1e3 * (time.perf_counter() - start)
        except asyncio.CancelledError:
            if not self._gone:
                raise
            task.uncancel()
        finally:
            if self._ahead:
                self._ahead.cancel()

    async def _receive(self) -> Message:
        if not self._ahead:
            return await self.socket.receive()
        frame, self._ahead = await self._ahead, None
        return frame

    def _listen(self, answering: asyncio.Task[None]) -> None:
        """Receives the next frame early; that the client has disconnected cancels the answer."""

        def heard(ahead: asyncio.Task[Message]) -> None:
            if not ahead.cancelled() and not ahead.exception() and ahead.result()["type"] == "websocket.disconnect":
                self._gone = True
                answering.cancel()

        self._ahead = asyncio.ensure_future(self.socket.receive())
        self._ahead.add_done_callback(heard)

    async def _answer(self, frame: Message) -> None:
        with self.service.track(self.client, "openpi") as entry:
            entry.message = next(self.message_numbers)
            message = _read(frame)
            answer = self._answer_envelope if _is_envelope(message) else self._infer
            await self.socket.send_bytes(self._pack(await answer(message, entry)))

    async def _infer(self, message: dict[Any, Value], entry: RequestLog) -> dict[str, Any]:
        self.client.admit()
        request = self.keymaps.to_request(message)
        request["id"] = self.stream
        answer = await self.service.act(self.client, self.stream, request, entry, self.deadline_s)
        return self._reply(answer)

    def _reply(self, answer: Answer) -> dict[str, Any]:
        """Returns the reply. Every array in it has one row per action, since openpi's broker slices all of them together."""
        timing = {"infer_ms": answer.policy_ms + answer.queued_ms}
        if self.previous_ms is not None:
            timing["prev_total_ms"] = self.previous_ms
        return {
            "actions": answer.actions(),
            "terminate": answer.chunk.terminate,
            "info": answer.info,
            "policy_timing": {"infer_ms": answer.policy_ms},
            "server_timing": timing,
        }

    async def _answer_envelope(self, message: dict[Any, Value], entry: RequestLog) -> dict[str, Any]:
        kind, request_id = message["type"], str(message.get("request_id", "default"))[:100]
        head = {"status": "ok", "ok": True, "type": kind, "request_id": request_id}
        try:
            if kind in ("ping", "init"):
                return head
            if kind == "reset":
                await self.service.reset(self.client, [self.stream])
                return head
            if kind not in ("infer", "predict_action"):
                raise UserError(f"unknown type {str(kind)[:60]!r}", "type", "send ping, init, infer or reset")
            fields = {key: value for key, value in message.items() if key not in ("type", "request_id")}
            payload = message.get("payload", fields)
            if not isinstance(payload, dict):
                raise UserError(f"expected a map, got {type(payload).__name__}", "payload")
            return {**head, "type": "inference_result", "data": await self._infer(payload, entry)}
        except Exception as error:
            refusal = as_refusal(error)
            if refusal.status == 401:
                raise
            return {**head, "status": "error", "ok": False, "type": "inference_result", "error": {"message": str(refusal)}}


def _read(frame: Message) -> dict[Any, Value]:
    content = frame.get("bytes")
    if content is None:
        raise UserError("a text frame", "message", "send msgpack in a binary frame")
    message = unpack(content)
    if not isinstance(message, dict):
        raise UserError(f"expected a map, got {type(message).__name__}", "message", "send one msgpack map per message")
    return message


def _is_envelope(message: dict[Any, Value]) -> bool:
    kind = message.get("type")
    return isinstance(kind, str) and ("payload" in message or "request_id" in message or kind in ("ping", "init", "reset"))


async def _close(socket: WebSocket, refusal: Refusal) -> None:
    """Sends the error and closes with 1008 for an invalid key, 1013 for an error worth a retry, or 1011 for any other."""
    code = 1008 if refusal.status == 401 else 1013 if refusal.retry_after is not None else 1011
    try:
        await socket.send_text(str(refusal))
        await socket.close(code, "See the previous frame.")
    except (WebSocketDisconnect, ConnectionError, RuntimeError):
        return
