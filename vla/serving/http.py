"""The HTTP and JSON interface. Errors are JSON {"error": {"what", "where", "fix"}} with a 4xx or 5xx status."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Coroutine
from typing import Any, NotRequired, TypedDict, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from vla.errors import UserError
from vla.protocols.wire import Value, read_json
from vla.serving import openvla
from vla.serving.docs import page
from vla.serving.observations import read_text
from vla.serving.openapi import describe
from vla.serving.refusal import Refusal, disconnected
from vla.serving.service import Service

Result = TypeVar("Result")


class Error(TypedDict):
    """The value of "error" in the JSON of a refusal."""

    what: str
    where: str
    fix: str
    retry_after: NotRequired[float]


def routes(service: Service, prefix: str = "") -> list[BaseRoute]:
    """Returns the routes of one policy; the API's description shows them below `prefix`."""

    def description() -> dict[str, Any]:
        # New weights may have learned questions.
        return describe(service.contract, prefix, service.answers_questions is not False)

    async def show_contract(_: Request) -> Response:
        content = {"contract": service.contract.to_dict(), "hash": service.digest, "questions": service.answers_questions}
        return JSONResponse(content)

    async def act(request: Request) -> Response:
        """Answers an observation with an action chunk. Clients of OpenVLA's protocol use this path too."""
        client = request.state.client
        with service.track(client, "http") as entry:
            client.admit()
            service.require_contract(request.headers.get("x-contract"))
            message, deadline_s = await _json(request, service), parse_deadline(request.headers.get("x-deadline-ms"))
            if openvla.is_payload(message):
                entry.protocol = "openvla"
                return await _until_disconnect(request, openvla.answer(service, client, message, entry, deadline_s))
            # The message's `id` names the stream; its type is checked with the other fields.
            stream = str(message.get("id", "default")) if isinstance(message, dict) else ""
            answer = await _until_disconnect(request, service.act(client, stream, message, entry, deadline_s))
            return JSONResponse(
                {
                    "actions": answer.chunk.actions.tolist(),
                    "terminate": answer.chunk.terminate.tolist(),
                    "status": answer.chunk.status,
                    "info": {**answer.info, "queued_ms": round(answer.queued_ms, 3), "infer_ms": round(answer.policy_ms, 3)},
                    "contract": service.digest,
                }
            )

    async def ask(request: Request) -> Response:
        """Answers a question on images with text or a point."""
        with service.track(request.state.client, "ask"):
            request.state.client.admit()
            message = await _json(request, service)
            return JSONResponse(await _until_disconnect(request, service.ask(message)))

    async def reset(request: Request) -> Response:
        """Drops the state of the streams {"ids": [...]}."""
        service.require_contract(request.headers.get("x-contract"))
        message = await _json(request, service)
        ids = message.get("ids") if isinstance(message, dict) else None
        if not isinstance(ids, list):
            raise UserError("no ids", "request", 'send {"ids": ["..."]}')
        ids = [read_text({"id": stream}, "id") for stream in ids]
        await service.reset(request.state.client, ids)
        return JSONResponse({"reset": ids})

    async def openapi(_: Request) -> Response:
        return JSONResponse(description())

    async def docs(request: Request) -> Response:
        url = f"{request.url.scheme}://{request.url.netloc}{prefix}"
        return Response(page(description(), service.contract, url), media_type="text/html")

    return [
        Route("/contract", show_contract),
        Route("/act", act, methods=["POST"]),
        Route("/ask", ask, methods=["POST"]),
        Route("/reset", reset, methods=["POST"]),
        Route("/openapi.json", openapi),
        Route("/docs", docs),
    ]


def error_response(refusal: Refusal) -> Response:
    """Returns the HTTP response for a refusal."""
    error: Error = {"what": refusal.what, "where": refusal.where, "fix": refusal.fix}
    headers = {}
    if refusal.retry_after is not None:
        error["retry_after"] = refusal.retry_after
        # The header holds whole seconds.
        headers["Retry-After"] = str(math.ceil(refusal.retry_after))
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Api-Key"
    # json.dumps writes ASCII: a quoted part of the request may hold lone surrogates, which UTF-8 cannot encode.
    return Response(json.dumps({"error": error}), refusal.status, headers, media_type="application/json")


def parse_deadline(header: str | None) -> float | None:
    """Returns the seconds of an X-Deadline-Ms header; None without one."""
    if header is None:
        return None
    try:
        milliseconds = float(header)
    except ValueError:
        milliseconds = math.nan
    if not 0 < milliseconds < math.inf:
        raise Refusal(400, f"not a number of milliseconds: {header[:40]!r}", "X-Deadline-Ms", "send e.g. 200")
    return milliseconds / 1e3


async def _until_disconnect(request: Request, work: Coroutine[None, None, Result]) -> Result:
    """Returns the result of `work`; cancels it when the client disconnects."""
    task, disconnect = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise disconnected()
        return task.result()
    finally:
        disconnect.cancel()
        task.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _json(request: Request, service: Service) -> Value:
    # Not in a thread: parsing holds the interpreter lock anyway.
    return read_json(await _body(request, service.options.message, service.options.slow_s), "request")


async def _body(request: Request, most: int, seconds: float) -> bytes:
    """Returns the request's body. Raises Refusal as soon as it turns out to be too long or too slow."""
    declared = request.headers.get("content-length", "0")
    content = bytearray()
    try:
        async with asyncio.timeout(seconds):
            if not declared.isdigit() or int(declared) <= most:
                async for part in request.stream():
                    content += part
                    if len(content) > most:
                        break
                else:
                    return bytes(content)
    except TimeoutError:
        raise Refusal(408, f"the body took more than {seconds:g} s", "request", "send it without pauses") from None
    raise Refusal(413, f"the body is longer than {most} bytes", "request", "send images as JPEG, or smaller ones")
