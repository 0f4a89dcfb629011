"""Our own HTTP and JSON. Errors are JSON {"error": {"what", "where", "fix"}} with a 4xx or 5xx status, never with status 200."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from vla.errors import UserError
from vla.protocols.wire import read_json
from vla.serving import openvla
from vla.serving.observations import text
from vla.serving.openapi import describe, page
from vla.serving.refusal import Refusal
from vla.serving.service import Service

Result = TypeVar("Result")


def routes(service: Service, prefix: str = "") -> list[BaseRoute]:
    """The paths of one policy, below `prefix` (which the API's description mentions)."""
    described = describe(service.contract, prefix)

    async def show_contract(_: Request) -> Response:
        return JSONResponse({"contract": service.contract.to_dict(), "hash": service.digest})

    async def act(request: Request) -> Response:
        """One observation in, one action chunk out; OpenVLA's clients ask here too."""
        client = request.state.client
        with service.counted(client, "http") as done:
            client.admit()
            service.same_contract(request.headers.get("x-contract"))
            message, deadline_s = await _json(request, service), deadline_of(request.headers.get("x-deadline-ms"))
            if openvla.speaks(message):
                done["protocol"] = "openvla"
                return await _attended(request, openvla.answer(service, client, message, done, deadline_s))
            # A stream is its client's `id`; the field is checked with the others.
            stream = str(message.get("id", "default")) if isinstance(message, dict) else ""
            answer = await _attended(request, service.act(client, stream, message, done, deadline_s))
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
        """A question on pictures in, words or a place out."""
        with service.counted(request.state.client, "ask"):
            request.state.client.admit()
            message = await _json(request, service)
            return JSONResponse(await _attended(request, service.ask(message)))

    async def reset(request: Request) -> Response:
        """Forgets the streams {"ids": [...]}."""
        service.same_contract(request.headers.get("x-contract"))
        asked = await _json(request, service)
        ids = asked.get("ids") if isinstance(asked, dict) else None
        if not isinstance(ids, list):
            raise UserError("no ids", "request", 'send {"ids": ["..."]}')
        ids = [text({"id": one}, "id") for one in ids]
        await service.reset(request.state.client, ids)
        return JSONResponse({"reset": ids})

    async def openapi(_: Request) -> Response:
        return JSONResponse(described)

    async def docs(_: Request) -> Response:
        return Response(page(described), media_type="text/html")

    return [
        Route("/contract", show_contract),
        Route("/act", act, methods=["POST"]),
        Route("/ask", ask, methods=["POST"]),
        Route("/reset", reset, methods=["POST"]),
        Route("/openapi.json", openapi),
        Route("/docs", docs),
    ]


def error_response(refusal: Refusal) -> Response:
    """A refusal as it is sent."""
    error: dict[str, Any] = {"what": refusal.what, "where": refusal.where, "fix": refusal.fix}
    headers = {}
    if refusal.retry_after is not None:
        error["retry_after"] = refusal.retry_after
        # The header holds whole seconds.
        headers["Retry-After"] = str(math.ceil(refusal.retry_after))
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Api-Key"
    # In ASCII: what is quoted of the request may hold what UTF-8 cannot say.
    return Response(json.dumps({"error": error}), refusal.status, headers, media_type="application/json")


def deadline_of(header: str | None) -> float | None:
    """Seconds from X-Deadline-Ms; None where it is not sent."""
    if header is None:
        return None
    try:
        milliseconds = float(header)
    except ValueError:
        milliseconds = math.nan
    if not 0 < milliseconds < math.inf:
        raise Refusal(400, f"not milliseconds: {header[:40]!r}", "X-Deadline-Ms", "e.g. 200")
    return milliseconds / 1e3


async def _attended(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """What `work` returns; it is cancelled when the client hangs up."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refusal(499, "the client hung up", "request")
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _json(request: Request, service: Service) -> Any:
    # Not in a thread: parsing holds the interpreter all the time anyway.
    return read_json(await _body(request, service.options.message, service.options.slow_s), "request")


async def _body(request: Request, most: int, seconds: float) -> bytes:
    """The request's body; refused as soon as it is known to be too long, or too slow."""
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
        raise Refusal(408, f"the body took more than {seconds:g} s", "request", "send it whole") from None
    raise Refusal(413, f"the body is longer than {most} bytes", "request", "send pictures as JPEG or smaller")
